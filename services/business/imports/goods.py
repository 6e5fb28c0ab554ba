"""What the generator draws from: kinds of goods with their words, prices and options."""

from __future__ import annotations

from typing import Final, NamedTuple

CLOTHES_SIZES: Final = ("XS", "S", "M", "L", "XL")
SHOE_SIZES: Final = ("38", "39", "40", "41", "42", "43", "44")
BED_SIZES: Final = ("Single", "Double", "King")
RUG_SIZES: Final = ("80 x 150 cm", "120 x 180 cm", "160 x 230 cm", "200 x 300 cm")
PAPER_SIZES: Final = ("A6", "A5", "A4")
VOLUMES: Final = ("250 ml", "400 ml", "750 ml")
PACKS: Final = ("250 g", "500 g", "1 kg")
STORAGE: Final = ("64 GB", "128 GB", "256 GB")


class Palette(NamedTuple):
    """A colour a product comes in, as it is called and as it is drawn."""

    name: str
    rgb: str


COLOURS: Final = (
    Palette("Chalk", "#e9e4d8"),
    Palette("Sand", "#d8c3a0"),
    Palette("Ochre", "#c98f2d"),
    Palette("Rust", "#b4532a"),
    Palette("Brick", "#9c3f34"),
    Palette("Plum", "#6d3b5c"),
    Palette("Rose", "#d58a94"),
    Palette("Lilac", "#a794c7"),
    Palette("Indigo", "#3b4a86"),
    Palette("Harbour", "#3f7396"),
    Palette("Sky", "#8db9d6"),
    Palette("Teal", "#2f7f7a"),
    Palette("Moss", "#6f7f45"),
    Palette("Fern", "#3f7a4c"),
    Palette("Slate", "#5b6672"),
    Palette("Ink", "#262c38"),
)


class Noun(NamedTuple):
    """A thing, with the range of its price in whole units of the currency and its weight."""

    name: str
    price_low: int
    price_high: int
    weight_grams: int


class Kind(NamedTuple):
    """A category of goods; `share` is how many of a thousand products are of it."""

    title: str
    share: int
    nouns: tuple[Noun, ...]
    materials: tuple[str, ...]
    size_name: str
    sizes: tuple[str, ...]
    size_price_step: int  # percent that each next size costs more
    coloured: bool
    uses: tuple[str, ...]
    care: str


def _nouns(*items: tuple[str, int, int, int]) -> tuple[Noun, ...]:
    return tuple(Noun(*item) for item in items)


CLOTH: Final = ("Linen", "Cotton", "Merino", "Hemp", "Flannel", "Twill", "Jersey", "Corduroy")
WOOD: Final = ("Oak", "Walnut", "Ash", "Birch", "Beech", "Cherry", "Bamboo", "Pine")
METAL: Final = ("Brass", "Steel", "Copper", "Silver", "Pewter", "Titanium")
CLAY: Final = ("Stoneware", "Porcelain", "Terracotta", "Enamel", "Glass", "Earthenware")
SHELL: Final = ("Recycled", "Ripstop", "Waxed", "Canvas", "Cordura", "Waterproof")

WASH_COLD: Final = "Wash at 30 degrees with like colours and dry in the shade."
WIPE: Final = "Wipe with a damp cloth; keep away from standing water."
DISHWASHER: Final = "Safe in the dishwasher, kinder to it by hand."
DRY_PLACE: Final = "Keep in a dry place, closed, away from direct sun."

KINDS: Final = (
    Kind("Shirts", 80, _nouns(("Shirt", 29, 95, 240), ("Overshirt", 49, 140, 420),
         ("Blouse", 29, 99, 180), ("Polo", 25, 70, 230)), CLOTH, "Size", CLOTHES_SIZES, 0, True,
         ("long days at a desk", "warm evenings", "travelling light"), WASH_COLD),
    Kind("T-Shirts", 70, _nouns(("T-Shirt", 12, 45, 160), ("Tank Top", 10, 35, 120),
         ("Long Sleeve", 18, 55, 200)), CLOTH, "Size", CLOTHES_SIZES, 0, True,
         ("every day of the week", "layering", "the gym and after it"), WASH_COLD),
    Kind("Knitwear", 55, _nouns(("Sweater", 45, 160, 480), ("Cardigan", 49, 180, 520),
         ("Scarf", 19, 75, 150), ("Beanie", 12, 39, 90)),
         ("Merino", "Lambswool", "Alpaca", "Cashmere", "Cotton", "Mohair"), "Size",
         CLOTHES_SIZES, 0, True, ("cold mornings", "the coast in autumn", "open fires"),
         "Wash by hand in cold water and dry flat."),
    Kind("Trousers", 55, _nouns(("Trousers", 39, 140, 480), ("Jeans", 45, 150, 650),
         ("Chinos", 35, 110, 450), ("Shorts", 22, 65, 280)), CLOTH, "Size", CLOTHES_SIZES, 0, True,
         ("work and weekend", "long walks", "cycling to town"), WASH_COLD),
    Kind("Dresses", 45, _nouns(("Dress", 45, 190, 380), ("Skirt", 29, 110, 300),
         ("Jumpsuit", 55, 180, 460)), CLOTH, "Size", CLOTHES_SIZES, 0, True,
         ("summer parties", "dancing", "the office"), WASH_COLD),
    Kind("Outerwear", 40, _nouns(("Jacket", 79, 320, 900), ("Parka", 120, 420, 1400),
         ("Raincoat", 69, 240, 700), ("Vest", 45, 150, 420)), SHELL, "Size", CLOTHES_SIZES, 0,
         True, ("wind and rain", "high paths", "the walk to the train"),
         "Brush off dirt when dry; proof again once a year."),
    Kind("Shoes", 60, _nouns(("Sneakers", 49, 160, 800), ("Boots", 89, 290, 1300),
         ("Sandals", 29, 110, 500), ("Loafers", 59, 190, 750)),
         ("Leather", "Suede", "Canvas", "Felt", "Nubuck"), "Size", SHOE_SIZES, 0, True,
         ("city streets", "muddy lanes", "standing all day"), "Brush, then wax lightly."),
    Kind("Bags", 50, _nouns(("Backpack", 45, 210, 900), ("Tote Bag", 19, 120, 400),
         ("Duffel", 59, 260, 1200), ("Wallet", 25, 95, 110)),
         ("Leather", "Canvas", "Waxed", "Recycled", "Cordura"), "", (), 0, True,
         ("a laptop and lunch", "a weekend away", "the market"), WIPE),
    Kind("Jewellery", 50, _nouns(("Ring", 29, 480, 8), ("Necklace", 35, 390, 20),
         ("Bracelet", 25, 260, 25), ("Earrings", 19, 220, 10)), METAL, "", (), 0, False,
         ("every day", "the one evening that matters", "giving away"),
         "Polish with a soft cloth."),
    Kind("Watches", 25, _nouns(("Watch", 79, 690, 85), ("Pocket Watch", 99, 520, 120)), METAL,
         "", (), 0, True, ("people who are on time", "people who would like to be"),
         "Water-resistant to 30 metres; serviced every five years."),
    Kind("Mugs and Cups", 45, _nouns(("Mug", 9, 38, 350), ("Cup", 7, 30, 220),
         ("Tumbler", 8, 34, 280)), CLAY, "Volume", VOLUMES, 15, True,
         ("the first coffee", "tea at four", "soup in winter"), DISHWASHER),
    Kind("Tableware", 45, _nouns(("Bowl", 12, 60, 520), ("Plate", 10, 48, 640),
         ("Teapot", 29, 120, 900), ("Carafe", 19, 75, 700)), CLAY, "", (), 0, True,
         ("six at the table", "breakfast in bed", "a full shelf"), DISHWASHER),
    Kind("Cookware", 40, _nouns(("Pan", 29, 190, 1600), ("Pot", 35, 240, 2400),
         ("Kettle", 29, 140, 1100), ("Casserole", 49, 290, 4200)),
         ("Cast Iron", "Copper", "Steel", "Enamel", "Aluminium"), "", (), 0, True,
         ("slow stews", "eggs that do not stick", "gas, induction and oven"),
         "Dry well and oil a little after use."),
    Kind("Lighting", 35, _nouns(("Lamp", 39, 290, 1800), ("Pendant Lamp", 49, 340, 1500),
         ("Lantern", 19, 90, 700)), ("Brass", "Oak", "Glass", "Paper", "Steel", "Walnut"), "", (),
         0, True, ("reading late", "a dark corner", "the table on the terrace"), WIPE),
    Kind("Furniture", 35, _nouns(("Chair", 79, 490, 6500), ("Stool", 49, 220, 3800),
         ("Shelf", 59, 390, 9000), ("Table", 149, 990, 22000)), WOOD, "", (), 0, False,
         ("small flats", "big families", "a room with a view"), "Oil the wood twice a year."),
    Kind("Bedding", 30, _nouns(("Blanket", 39, 190, 1400), ("Pillow", 19, 90, 700),
         ("Duvet Cover", 45, 210, 1600)), ("Linen", "Cotton", "Wool", "Percale", "Satin"), "Size",
         BED_SIZES, 25, True, ("deep sleep", "cool nights", "guests"), WASH_COLD),
    Kind("Rugs", 20, _nouns(("Rug", 69, 490, 6000), ("Runner", 39, 220, 2500)),
         ("Wool", "Jute", "Cotton", "Sisal"), "Size", RUG_SIZES, 45, True,
         ("bare feet", "a long hall", "the space below the sofa"), "Vacuum without the brush."),
    Kind("Stationery", 45, _nouns(("Notebook", 6, 32, 260), ("Pen", 4, 95, 25),
         ("Planner", 14, 45, 320), ("Sketchbook", 9, 40, 380)),
         ("Linen", "Leather", "Recycled", "Cotton", "Cork"), "Format", PAPER_SIZES, 30, True,
         ("lists that get done", "drawing on trains", "a year of plans"), DRY_PLACE),
    Kind("Coffee and Tea", 40, _nouns(("Coffee", 8, 24, 0), ("Tea", 5, 29, 0),
         ("Cocoa", 6, 19, 0)), ("Highland", "Single Estate", "Smoked", "Washed", "Organic"),
         "Pack", PACKS, 70, False, ("filter and press", "slow mornings", "cold brew"), DRY_PLACE),
    Kind("Headphones", 30, _nouns(("Headphones", 39, 390, 260), ("Earbuds", 29, 240, 60)),
         ("Wireless", "Studio", "Folding", "Open-Back"), "", (), 0, True,
         ("open offices", "long flights", "mixing at night"), WIPE),
    Kind("Speakers", 25, _nouns(("Speaker", 39, 420, 1300), ("Radio", 49, 240, 1100)),
         ("Walnut", "Portable", "Oak", "Outdoor", "Felt"), "", (), 0, True,
         ("the kitchen", "the garden", "a party of ten"), WIPE),
    Kind("Storage Devices", 20, _nouns(("Memory Card", 9, 60, 5), ("Flash Drive", 8, 55, 12)),
         ("Steel", "Aluminium", "Rugged", "Compact"), "Capacity", STORAGE, 60, False,
         ("holiday pictures", "moving house, digitally"), WIPE),
    Kind("Toys", 30, _nouns(("Building Blocks", 15, 70, 1200), ("Puzzle", 9, 39, 500),
         ("Kite", 12, 49, 300), ("Ball", 6, 29, 250)),
         ("Wooden", "Cotton", "Bamboo", "Painted", "Felt"), "", (), 0, True,
         ("rainy Sundays", "three and older", "the whole family"), WIPE),
    Kind("Garden", 30, _nouns(("Planter", 12, 90, 1900), ("Watering Can", 15, 65, 900),
         ("Trowel", 9, 39, 350), ("Vase", 12, 80, 800)),
         ("Zinc", "Terracotta", "Copper", "Steel", "Stoneware"), "", (), 0, True,
         ("balconies", "herbs by the door", "the first warm day"), "Bring in before frost."),
)  # fmt: skip

ADJECTIVES: Final = (
    "Soft", "Classic", "Slim", "Relaxed", "Everyday", "Heavy", "Light", "Brushed", "Quiet",
    "Bold", "Folded", "Woven", "Striped", "Plain", "Rounded", "Tall", "Compact", "Original",
    "Garden", "Harbour", "Winter", "Summer", "Morning", "Evening",
)  # fmt: skip

# Names of product lines and of makers: made up.
LINES: Final = (
    "Aldin", "Brae", "Calder", "Dunmore", "Elva", "Fjell", "Garrow", "Hollin", "Isling", "Juno",
    "Kestrel", "Lorne", "Marlow", "Nevis", "Orrin", "Pellan", "Quill", "Rowan", "Selby", "Tarn",
    "Ulver", "Varden", "Wexley", "Yarrow", "Zelda", "Ambler", "Birk", "Corrin", "Dalby", "Esker",
)  # fmt: skip

VENDORS: Final = (
    "Northfold", "Alder & Ash", "Hollin Works", "Kestrel Row", "Tidemark", "Little Quarry",
    "Foxglove Mill", "Harrow Lane", "Saltmarsh", "Bright & Plain", "Copperfield Yard",
    "Ninth Street", "Loom House", "Paper Kite", "Old Ferry", "Greenwharf", "Fieldnote",
    "Stone & Thread", "Moorland Supply", "Half Moon Goods", "Larkspur", "Wren & Co",
    "Outer Isles", "Good Measure",
)  # fmt: skip
