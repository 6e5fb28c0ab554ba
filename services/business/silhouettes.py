"""Silhouettes of goods: fragments of SVG on a field of 400 x 400, in four tones.

{c} is the colour of the thing, {d} a darker one, {l} a lighter one, {p} that of the paper behind.
"""

from __future__ import annotations

from typing import Final

SHIRT: Final = (
    '<path fill="{c}" d="M148 112l30-14q22 24 44 0l30 14 48 52-32 28-18-16v112H150V176l-18 '
    '16-32-28z"/>'
    '<path fill="none" stroke="{d}" stroke-width="4" d="M178 98q22 30 44 0M200 120v166"/>'
)
TSHIRT: Final = (
    '<path fill="{c}" d="M146 110l32-12q22 22 44 0l32 12 46 44-30 34-20-14v114H150V174l-20 '
    '14-30-34z"/>'
    '<path fill="none" stroke="{d}" stroke-width="5" d="M178 98q22 26 44 0"/>'
)
SWEATER: Final = (
    '<path fill="{c}" d="M150 108l30-10h40l30 10q22 14 28 54l18 104-34 6-12-72v88H150v-88l-12 '
    '72-34-6 18-104q6-40 28-54z"/>'
    '<path fill="{d}" d="M180 98h40q-4 18-20 18t-20-18zM150 276h100v12H150z"/>'
)
JACKET: Final = (
    '<path fill="{c}" d="M150 108l34-14 16 20 16-20 34 14q24 16 30 60l14 100-36 '
    '6-8-66v86H150v-86l-8 66-36-6 14-100q6-44 30-60z"/>'
    '<path fill="{l}" d="M184 94l16 20 16-20v34l-16 18-16-18z"/>'
    '<path stroke="{d}" stroke-width="4" d="M200 146v148M166 236h20M214 236h20"/>'
)
TROUSERS: Final = (
    '<path fill="{c}" d="M148 96h104l14 200h-48l-18-126-18 126h-48z"/>'
    '<path fill="{d}" d="M148 96h104l1 16H147z"/>'
    '<path stroke="{d}" stroke-width="3" d="M200 112v58"/>'
)
SHORTS: Final = (
    '<path fill="{c}" d="M140 130h120l20 120h-66l-14-60-14 60h-66z"/>'
    '<path fill="{d}" d="M140 130h120l3 16H137z"/>'
)
DRESS: Final = (
    '<path fill="{c}" d="M168 90l12-2q20 26 40 0l12 2 10 66q6 18 46 130-88 20-176 0 40-112 '
    '46-130z"/>'
    '<path fill="{d}" d="M158 152h84l2 12h-88z"/>'
)
SKIRT: Final = (
    '<path fill="{c}" d="M158 118h84l46 156q-88 24-176 0z"/>'
    '<path fill="{d}" d="M158 118h84l4 16h-92z"/>'
    '<path stroke="{d}" stroke-width="3" d="M178 140l-20 138M222 140l20 138M200 140v144"/>'
)
HAT: Final = (
    '<path fill="{c}" d="M124 226q0-112 76-112t76 112z"/>'
    '<rect x="112" y="222" width="176" height="42" rx="16" fill="{d}"/>'
    '<circle cx="200" cy="106" r="20" fill="{l}"/>'
)
SCARF: Final = (
    '<path fill="{c}" d="M130 128q70 46 140 0l12 34q-34 26-58 28l12 '
    '100h-50l-8-96q-34-4-60-32z"/>'
    '<path stroke="{d}" stroke-width="4" d="M186 262h48M188 276h48"/>'
)
SNEAKER: Final = (
    '<path fill="{c}" d="M98 176q30 12 60-22l22 8q34 46 92 54 32 6 32 38H98z"/>'
    '<path fill="{d}" d="M94 250h212v14q0 10-10 10H104q-10 0-10-10z"/>'
    '<path stroke="{l}" stroke-width="5" d="M176 176l-18 18M194 194l-18 18M214 206l-16 18"/>'
)
BOOT: Final = (
    '<path fill="{c}" d="M148 98h76v98q10 16 40 22 36 8 36 42H148z"/>'
    '<path fill="{d}" d="M142 256h162v14q0 10-10 10H152q-10 0-10-10z"/>'
    '<path stroke="{l}" stroke-width="5" d="M206 140h18M206 164h18M208 188h18"/>'
)
TOTE: Final = (
    '<path fill="none" stroke="{d}" stroke-width="10" d="M160 168q0-80 40-80t40 80"/>'
    '<path fill="{c}" d="M118 160h164l14 130q-96 14-192 0z"/>'
    '<path stroke="{l}" stroke-width="3" d="M124 178h152"/>'
)
BACKPACK: Final = (
    '<path fill="none" stroke="{d}" stroke-width="8" d="M178 104q0-20 22-20t22 20"/>'
    '<rect x="126" y="102" width="148" height="186" rx="44" fill="{c}"/>'
    '<rect x="146" y="196" width="108" height="74" rx="16" fill="{d}"/>'
    '<path stroke="{l}" stroke-width="4" d="M146 168h108M160 214h80"/>'
)
WALLET: Final = (
    '<rect x="106" y="136" width="188" height="130" rx="16" fill="{c}"/>'
    '<path fill="{d}" d="M226 178h68v46h-68q-18 0-18-23t18-23z"/>'
    '<circle cx="232" cy="201" r="8" fill="{l}"/>'
)
RING: Final = (
    '<circle cx="200" cy="218" r="66" fill="none" stroke="{c}" stroke-width="18"/>'
    '<path fill="{l}" d="M172 118h56l20 24-48 40-48-40z"/>'
    '<path stroke="{d}" stroke-width="3" fill="none" d="M152 142h96M186 142l14 40 14-40"/>'
)
NECKLACE: Final = (
    '<path fill="none" stroke="{c}" stroke-width="7" d="M118 100q12 140 82 140t82-140"/>'
    '<circle cx="200" cy="262" r="26" fill="{c}"/>'
    '<circle cx="200" cy="262" r="13" fill="{l}"/>'
)
BRACELET: Final = (
    '<ellipse cx="200" cy="198" rx="100" ry="70" fill="none" stroke="{c}" stroke-width="20"/>'
    '<ellipse cx="200" cy="198" rx="100" ry="70" fill="none" stroke="{l}" stroke-width="4" '
    'stroke-dasharray="2 16"/>'
)
EARRINGS: Final = (
    '<path fill="none" stroke="{d}" stroke-width="5" d="M150 112q14-20 14 6v34M236 112q14-20 '
    '14 6v34"/>'
    '<path fill="{c}" d="M164 150q42 74 0 106-42-32 0-106zM250 150q42 74 0 106-42-32 0-106z"/>'
    '<circle cx="164" cy="220" r="9" fill="{l}"/>'
    '<circle cx="250" cy="220" r="9" fill="{l}"/>'
)
WATCH: Final = (
    '<path fill="{d}" d="M168 84h64l8 62h-80zM160 244h80l-8 62h-64z"/>'
    '<circle cx="200" cy="195" r="70" fill="{c}"/>'
    '<circle cx="200" cy="195" r="54" fill="{p}"/>'
    '<path stroke="{d}" stroke-width="6" stroke-linecap="round" d="M200 195v-34M200 195l24 '
    '14"/>'
)
MUG: Final = (
    '<path fill="none" stroke="{c}" stroke-width="16" d="M250 152q50-4 50 36t-54 42"/>'
    '<path fill="{c}" d="M122 124h136v120q0 34-34 34h-68q-34 0-34-34z"/>'
    '<ellipse cx="190" cy="126" rx="68" ry="13" fill="{d}"/>'
    '<path stroke="{l}" stroke-width="6" d="M142 160v76"/>'
)
TUMBLER: Final = (
    '<path fill="{c}" d="M138 116h124l-16 164q-46 12-92 0z"/>'
    '<ellipse cx="200" cy="117" rx="62" ry="12" fill="{d}"/>'
    '<path stroke="{l}" stroke-width="6" d="M160 146l8 104"/>'
)
BOWL: Final = (
    '<path fill="{c}" d="M96 170h208q-6 96-74 104h-60q-68-8-74-104z"/>'
    '<ellipse cx="200" cy="170" rx="104" ry="22" fill="{d}"/>'
    '<path fill="{d}" d="M164 274h72l-6 14h-60z"/>'
)
PLATE: Final = (
    '<circle cx="200" cy="192" r="106" fill="{c}"/>'
    '<circle cx="200" cy="192" r="70" fill="{l}"/>'
    '<circle cx="200" cy="192" r="88" fill="none" stroke="{d}" stroke-width="3"/>'
)
TEAPOT: Final = (
    '<path fill="none" stroke="{c}" stroke-width="14" d="M262 162q48-6 42 36t-50 40"/>'
    '<path fill="{c}" d="M134 168l-46-30 10-12 52 24q20-14 50-14 72 0 72 74 0 66-72 '
    '66t-74-66z"/>'
    '<path fill="{d}" d="M162 142q38-20 76 0z"/>'
    '<circle cx="200" cy="122" r="10" fill="{d}"/>'
)
VASE: Final = (
    '<path fill="{c}" d="M172 92h56q-8 48 14 78 36 60-8 120h-68q-44-60-8-120 22-30 14-78z"/>'
    '<path fill="{d}" d="M170 86h60v12h-60z"/>'
    '<path stroke="{l}" stroke-width="6" d="M166 206q-6 34 10 62"/>'
)
PAN: Final = (
    '<path stroke="{d}" stroke-width="18" stroke-linecap="round" d="M254 170l62-44"/>'
    '<ellipse cx="180" cy="206" rx="98" ry="62" fill="{d}"/>'
    '<ellipse cx="180" cy="198" rx="98" ry="58" fill="{c}"/>'
    '<ellipse cx="180" cy="200" rx="76" ry="42" fill="{d}"/>'
)
POT: Final = (
    '<path fill="none" stroke="{d}" stroke-width="12" d="M112 186H92v34h24M288 186h20v34h-24"/>'
    '<path fill="{c}" d="M110 160h180v94q0 30-30 30H140q-30 0-30-30z"/>'
    '<path fill="{d}" d="M110 160q0-36 90-36t90 36z"/>'
    '<circle cx="200" cy="116" r="12" fill="{l}"/>'
)
KETTLE: Final = (
    '<path fill="none" stroke="{d}" stroke-width="12" d="M142 150q58-96 116 0"/>'
    '<path fill="{c}" d="M134 166q66-34 132 0l40-26 8 14-34 40 12 86H108z"/>'
    '<circle cx="200" cy="148" r="10" fill="{d}"/>'
)
LAMP: Final = (
    '<path fill="{c}" d="M160 92h80l36 94H124z"/>'
    '<path stroke="{d}" stroke-width="10" d="M200 186v90"/>'
    '<ellipse cx="200" cy="280" rx="56" ry="13" fill="{d}"/>'
    '<path fill="{l}" d="M132 186h136l8 12H124z"/>'
)
PENDANT: Final = (
    '<path stroke="{d}" stroke-width="5" d="M200 60v84"/>'
    '<path fill="{c}" d="M106 250q6-108 94-108t94 108z"/>'
    '<ellipse cx="200" cy="250" rx="94" ry="16" fill="{d}"/>'
    '<circle cx="200" cy="262" r="18" fill="{l}"/>'
)
LANTERN: Final = (
    '<circle cx="200" cy="100" r="20" fill="none" stroke="{d}" stroke-width="8"/>'
    '<path fill="{c}" d="M152 118h96l16 32H136z"/>'
    '<rect x="144" y="150" width="112" height="116" fill="{l}"/>'
    '<path fill="{c}" d="M136 266h128v22H136zM144 150h12v116h-12zM244 150h12v116h-12z"/>'
    '<path fill="{d}" d="M200 184q24 36 0 62-24-26 0-62z"/>'
)
CHAIR: Final = (
    '<path fill="{c}" d="M140 86h18v214h-18zM242 196h18v104h-18zM140 188h120v20H140z"/>'
    '<path fill="{d}" d="M158 100h70v14h-70zM158 130h70v14h-70z"/>'
    '<path fill="{c}" d="M222 86h14v104h-14z"/>'
)
STOOL: Final = (
    '<path stroke="{d}" stroke-width="12" d="M158 160l-22 128M242 160l22 128M148 236h104"/>'
    '<ellipse cx="200" cy="152" rx="82" ry="24" fill="{c}"/>'
)
SHELF: Final = (
    '<path fill="{d}" d="M122 88h12v210h-12zM266 88h12v210h-12z"/>'
    '<path fill="{c}" d="M116 108h168v14H116zM116 172h168v14H116zM116 236h168v14H116z"/>'
    '<path fill="{l}" d="M150 134h14v38h-14zM168 140h12v32h-12zM214 204h40v32h-40z"/>'
)
TABLE: Final = (
    '<path stroke="{d}" stroke-width="14" d="M124 164l-14 120M276 164l14 120"/>'
    '<rect x="90" y="144" width="220" height="24" rx="6" fill="{c}"/>'
    '<path stroke="{l}" stroke-width="3" d="M102 152h180"/>'
)
PILLOW: Final = (
    '<path fill="{c}" d="M112 124q88 22 176 0 22 72 0 148-88-22-176 0-22-76 0-148z"/>'
    '<path fill="none" stroke="{d}" stroke-width="3" stroke-dasharray="8 7" d="M128 142q72 14 '
    '144 0 14 54 0 112-72-14-144 0-14-58 0-112z"/>'
)
BLANKET: Final = (
    '<path fill="{c}" d="M112 130q0-16 16-16h144q16 0 16 16v142H112z"/>'
    '<path fill="{d}" d="M112 170h176v14H112zM112 200h176v8H112z"/>'
    '<path stroke="{l}" stroke-width="4" d="M120 272v16M144 272v16M168 272v16M192 272v16M216 '
    '272v16M240 272v16M264 272v16"/>'
)
RUG: Final = (
    '<rect x="96" y="128" width="208" height="134" fill="{c}"/>'
    '<path fill="none" stroke="{l}" stroke-width="5" d="M112 144h176v102H112z"/>'
    '<path fill="{d}" d="M200 156l60 39-60 39-60-39z"/>'
    '<path stroke="{d}" stroke-width="4" stroke-dasharray="3 9" d="M90 128v134M310 128v134"/>'
)
NOTEBOOK: Final = (
    '<rect x="130" y="94" width="146" height="198" rx="10" fill="{c}"/>'
    '<path fill="{d}" d="M130 104q0-10 10-10h14v198h-14q-10 0-10-10z"/>'
    '<rect x="178" y="132" width="72" height="34" rx="4" fill="{l}"/>'
    '<path stroke="{d}" stroke-width="5" d="M256 94v198"/>'
)
PEN: Final = (
    '<g transform="rotate(38 200 195)">'
    '<rect x="186" y="96" width="28" height="150" rx="8" fill="{c}"/>'
    '<path fill="{d}" d="M186 242h28l-14 52z"/>'
    '<path fill="{l}" d="M210 104h10v66h-10zM186 176h28v8h-28z"/>'
    "</g>"
)
POUCH: Final = (
    '<path fill="{c}" d="M136 110h128l10 176q-74 16-148 0z"/>'
    '<path fill="{d}" d="M136 96h128v22H136z"/>'
    '<rect x="154" y="160" width="92" height="84" rx="8" fill="{l}"/>'
    '<path fill="{d}" d="M200 176q28 26 0 52-28-26 0-52z"/>'
)
HEADPHONES: Final = (
    '<path fill="none" stroke="{d}" stroke-width="14" d="M112 214q0-110 88-110t88 110"/>'
    '<rect x="98" y="200" width="46" height="84" rx="20" fill="{c}"/>'
    '<rect x="256" y="200" width="46" height="84" rx="20" fill="{c}"/>'
    '<path fill="{l}" d="M136 212h8v60h-8zM256 212h8v60h-8z"/>'
)
EARBUDS: Final = (
    '<path fill="{c}" d="M132 140q0-30 30-30t30 30-22 32v88q0 12-11 '
    "12t-11-12v-88q-16-6-16-32zM208 140q0-30 30-30t30 30-16 32v88q0 12-11 "
    '12t-11-12v-88q-22-6-22-32z"/>'
    '<circle cx="162" cy="140" r="12" fill="{d}"/>'
    '<circle cx="238" cy="140" r="12" fill="{d}"/>'
)
SPEAKER: Final = (
    '<rect x="134" y="90" width="132" height="206" rx="22" fill="{c}"/>'
    '<circle cx="200" cy="228" r="44" fill="{d}"/>'
    '<circle cx="200" cy="228" r="18" fill="{l}"/>'
    '<circle cx="200" cy="136" r="20" fill="{d}"/>'
)
RADIO: Final = (
    '<path stroke="{d}" stroke-width="6" d="M244 146l44-66"/>'
    '<rect x="98" y="140" width="204" height="138" rx="18" fill="{c}"/>'
    '<circle cx="156" cy="209" r="42" fill="{d}"/>'
    '<rect x="216" y="168" width="64" height="34" rx="5" fill="{l}"/>'
    '<circle cx="248" cy="240" r="14" fill="{d}"/>'
)
CARD: Final = (
    '<path fill="{c}" d="M144 96h86l32 32v160q0 8-8 8H144q-8 0-8-8V104q0-8 8-8z"/>'
    '<path fill="{l}" d="M154 110h12v34h-12zM176 110h12v34h-12zM198 110h12v34h-12z"/>'
    '<rect x="154" y="180" width="90" height="84" rx="6" fill="{d}"/>'
)
DRIVE: Final = (
    '<rect x="160" y="146" width="80" height="150" rx="14" fill="{c}"/>'
    '<path fill="{l}" d="M174 92h52v54h-52z"/>'
    '<path fill="{d}" d="M184 108h10v16h-10zM206 108h10v16h-10z"/>'
    '<circle cx="200" cy="266" r="10" fill="{d}"/>'
)
BLOCKS: Final = (
    '<rect x="112" y="202" width="82" height="82" rx="8" fill="{c}"/>'
    '<rect x="206" y="202" width="82" height="82" rx="8" fill="{d}"/>'
    '<rect x="158" y="110" width="82" height="82" rx="8" fill="{l}"/>'
    '<circle cx="153" cy="243" r="20" fill="{l}"/>'
    '<path fill="{c}" d="M247 222l22 40h-44zM182 134h34v34h-34z"/>'
)
PUZZLE: Final = (
    '<path fill="{c}" d="M120 118h62q-10-34 18-34t18 34h62v62q34-10 34 18t-34 18v62H120v-62q34 '
    '10 34-18t-34-18z"/>'
    '<path stroke="{d}" stroke-width="4" fill="none" d="M140 138h50M260 138v34"/>'
)
KITE: Final = (
    '<path fill="{c}" d="M200 78l74 84-74 92-74-92z"/>'
    '<path fill="{d}" d="M200 78l74 84h-74zM200 254l-74-92h74z"/>'
    '<path fill="none" stroke="{d}" stroke-width="4" d="M200 254q40 18 0 34t20 24"/>'
)
BALL: Final = (
    '<circle cx="200" cy="192" r="98" fill="{c}"/>'
    '<path fill="{l}" d="M200 94q-62 98 0 196 62-98 0-196z"/>'
    '<path fill="none" stroke="{d}" stroke-width="4" d="M104 176q96 44 192 0"/>'
)
PLANTER: Final = (
    '<path fill="#5f8a4e" d="M200 190q-80-10-72-84 66 4 72 84 0-92 60-102 10 78-60 102z"/>'
    '<path fill="{c}" d="M128 186h144l-18 104H146z"/>'
    '<path fill="{d}" d="M120 176h160v20H120z"/>'
)
CAN: Final = (
    '<path fill="none" stroke="{d}" stroke-width="10" d="M236 152q64-30 62 44t-56 60"/>'
    '<path fill="{c}" d="M138 152h108v126H138z"/>'
    '<path fill="{d}" d="M138 240L96 140l-20-6 14-18 20 12 28 52z"/>'
)
TROWEL: Final = (
    '<g transform="rotate(35 200 195)">'
    '<rect x="188" y="76" width="24" height="90" rx="12" fill="{d}"/>'
    '<path stroke="{l}" stroke-width="9" d="M200 166v28"/>'
    '<path fill="{c}" d="M166 190h68v50q-8 48-34 66-26-18-34-66z"/>'
    "</g>"
)
BOX: Final = (
    '<path fill="{c}" d="M200 96l98 46v108l-98 50-98-50V142z"/>'
    '<path fill="{d}" d="M200 190l98-48v108l-98 50z"/>'
    '<path fill="{l}" d="M150 120l98 46v40l-20-10v-20L130 130z"/>'
)

# The last word of what a thing is called, and its picture.
OF_WORD: Final = {
    "shirt": SHIRT, "overshirt": SHIRT, "blouse": SHIRT, "polo": TSHIRT, "top": TSHIRT,
    "sleeve": SWEATER, "sweater": SWEATER, "cardigan": JACKET, "scarf": SCARF, "beanie": HAT,
    "trousers": TROUSERS, "jeans": TROUSERS, "chinos": TROUSERS, "shorts": SHORTS, "dress": DRESS,
    "skirt": SKIRT, "jumpsuit": DRESS, "jacket": JACKET, "parka": JACKET, "raincoat": JACKET,
    "vest": JACKET, "sneakers": SNEAKER, "loafers": SNEAKER, "sandals": SNEAKER, "boots": BOOT,
    "backpack": BACKPACK, "bag": TOTE, "duffel": TOTE, "wallet": WALLET, "ring": RING,
    "necklace": NECKLACE, "bracelet": BRACELET, "earrings": EARRINGS, "watch": WATCH, "mug": MUG,
    "cup": MUG, "tumbler": TUMBLER, "bowl": BOWL, "plate": PLATE, "teapot": TEAPOT,
    "carafe": VASE, "vase": VASE, "pan": PAN, "pot": POT, "casserole": POT, "kettle": KETTLE,
    "lamp": LAMP, "pendant": PENDANT, "lantern": LANTERN, "chair": CHAIR, "stool": STOOL,
    "shelf": SHELF, "table": TABLE, "blanket": BLANKET, "cover": BLANKET, "pillow": PILLOW,
    "rug": RUG, "runner": RUG, "notebook": NOTEBOOK, "planner": NOTEBOOK, "sketchbook": NOTEBOOK,
    "pen": PEN, "coffee": POUCH, "tea": POUCH, "cocoa": POUCH, "headphones": HEADPHONES,
    "earbuds": EARBUDS, "speaker": SPEAKER, "radio": RADIO, "card": CARD, "drive": DRIVE,
    "blocks": BLOCKS, "puzzle": PUZZLE, "kite": KITE, "ball": BALL, "planter": PLANTER,
    "can": CAN, "trowel": TROWEL,
}  # fmt: skip
