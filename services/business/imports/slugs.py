"""Slugs: the name of a product or category in an address, of a-z, 0-9 and single hyphens."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from typing import Final

SLUG_MAX: Final = 200  # products_slug_form in the schema
_OTHER: Final = re.compile(r"[^a-z0-9]+")

# Letters that Unicode does not take apart into a Latin letter and an accent. Cyrillic follows
# ISO 9 as it is written without accents, Greek ISO 843; both as browsers' users expect them.
_LETTERS: Final = str.maketrans(
    {
        "ß": "ss", "æ": "ae", "œ": "oe", "ø": "o", "đ": "d", "ð": "d", "ł": "l", "þ": "th",
        "ı": "i", "ŋ": "ng", "ħ": "h", "&": " and ", "'": "", "’": "",
        "а": "a", "б": "b", "в": "v", "г": "g", "ґ": "g", "д": "d", "е": "e", "є": "ie",
        "ж": "zh", "з": "z", "и": "i", "і": "i", "к": "k", "л": "l", "м": "m", "н": "n",
        "о": "o", "п": "p", "р": "r", "с": "s", "т": "t", "у": "u", "ф": "f", "х": "kh",
        "ц": "ts", "ч": "ch", "ш": "sh", "щ": "shch", "ъ": "", "ы": "y", "ь": "", "э": "e",
        "ю": "yu", "я": "ya",
        "α": "a", "β": "v", "γ": "g", "δ": "d", "ε": "e", "ζ": "z", "η": "i", "θ": "th",
        "ι": "i", "κ": "k", "λ": "l", "μ": "m", "ν": "n", "ξ": "x", "ο": "o", "π": "p",
        "ρ": "r", "σ": "s", "ς": "s", "τ": "t", "υ": "y", "φ": "f", "χ": "ch", "ψ": "ps",
        "ω": "o",
    }
)  # fmt: skip


def slugify(text: str) -> str:
    """The text in a slug's letters; empty where it has none of them, as in Chinese."""
    # Composed first: "й" is a letter of its own, "ё" is "е" with an accent to most readers.
    plain = unicodedata.normalize("NFKC", text).casefold().replace("й", "i")
    spelled = unicodedata.normalize("NFKD", plain).translate(_LETTERS)
    letters = "".join(letter for letter in spelled if not unicodedata.combining(letter))
    return _OTHER.sub("-", letters).strip("-")


def product_slug(name: str, distinct: str = "") -> str:
    """The slug of a product: its name, made distinct by an id where names may repeat.

    What does not fit, or has no letters to show, is stood for by a hash of the whole.
    """
    wanted = "-".join(part for part in (slugify(name), slugify(distinct)) if part)
    lossless = bool(wanted) and (not distinct or slugify(distinct) != "")
    if lossless and len(wanted) <= SLUG_MAX:
        return wanted
    digest = hashlib.sha256(f"{name}\0{distinct}".encode()).hexdigest()[:12]
    return f"{wanted[: SLUG_MAX - 13].strip('-') or 'product'}-{digest}"


def category_slug(title: str) -> str | None:
    """The slug of a category; a hash where the title has no letters to show, None where empty."""
    if not title.strip():
        return None
    digest = hashlib.sha256(title.strip().casefold().encode()).hexdigest()[:12]
    return slugify(title)[:SLUG_MAX].strip("-") or f"category-{digest}"
