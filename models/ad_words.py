"""Vocabulary of the built-in ad log: what people ask for, and the other words that ads use for the same things."""

from __future__ import annotations

from typing import Final

PRODUCTS: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "furniture": {
        "sofa": ("sofa", "couch", "settee"),
        "desk": ("desk", "writing table", "workstation"),
        "bookcase": ("bookcase", "bookshelf", "shelving unit"),
        "bed": ("bed frame", "bedstead", "platform bed"),
        "wardrobe": ("wardrobe", "closet", "armoire"),
    },
    "footwear": {
        "running shoes": ("running shoes", "trainers", "jogging sneakers"),
        "boots": ("boots", "ankle boots", "hiking boots"),
        "sandals": ("sandals", "flip flops", "slides"),
        "slippers": ("slippers", "house shoes", "loafers"),
    },
    "clothing": {
        "jacket": ("jacket", "coat", "parka"),
        "jeans": ("jeans", "denim trousers", "denim pants"),
        "sweater": ("sweater", "pullover", "jumper"),
        "t-shirt": ("t shirt", "tee", "short sleeve top"),
    },
    "electronics": {
        "laptop": ("laptop", "notebook computer", "ultrabook"),
        "phone": ("phone", "smartphone", "mobile handset"),
        "headphones": ("headphones", "headset", "earphones"),
        "television": ("tv", "television", "flat screen"),
        "camera": ("camera", "dslr", "camcorder"),
    },
    "kitchen": {
        "blender": ("blender", "smoothie maker", "food mixer"),
        "kettle": ("kettle", "water boiler", "electric jug"),
        "frying pan": ("frying pan", "skillet", "saute pan"),
        "fridge": ("fridge", "refrigerator", "cooler"),
    },
    "garden": {
        "lawn mower": ("lawn mower", "grass cutter", "mowing machine"),
        "hose": ("garden hose", "water pipe", "hosepipe"),
        "grill": ("grill", "barbecue", "bbq smoker"),
    },
    "sports": {
        "bicycle": ("bike", "bicycle", "cycle"),
        "tent": ("tent", "camping shelter", "canopy dome"),
        "yoga mat": ("yoga mat", "exercise mat", "pilates pad"),
        "dumbbells": ("dumbbells", "hand weights", "free weights"),
    },
    "travel": {
        "suitcase": ("suitcase", "luggage", "trolley case"),
        "backpack": ("backpack", "rucksack", "daypack"),
        "umbrella": ("umbrella", "parasol", "rain shelter"),
    },
}
"""Category -> product type -> names of it. Queries and ads choose a name freely, so words often differ where the
product is the same."""

ACCESSORIES: Final = (
    "cover",
    "stand",
    "carry bag",
    "repair kit",
    "cleaning kit",
    "spare parts",
    "storage box",
    "holder",
)

ATTRIBUTES: Final[dict[str, tuple[tuple[str, ...], ...]]] = {
    "audience": (
        ("mens", "for men", "gents", "for him"),
        ("womens", "for women", "ladies", "for her"),
        ("kids", "for children", "junior", "for boys and girls"),
    ),
    "brand": tuple(
        (name,)
        for name in (
            "alder", "norvik", "summit", "harbor", "zentra", "bluepeak", "falcon", "kestrel", "orion", "vexo",
            "maple ridge", "ironwood", "lumina", "tavish", "corvane", "redstone", "aurora", "pinecrest", "solari",
            "halden",
        )
    ),
    "price": (
        ("cheap", "budget", "affordable", "low cost"),
        ("premium", "luxury", "high end", "designer"),
    ),
    "colour": (
        ("blue", "navy", "cobalt"),
        ("red", "crimson", "scarlet"),
        ("green", "olive", "emerald"),
        ("black", "jet black", "ebony"),
        ("white", "ivory", "snow white"),
        ("grey", "charcoal", "silver"),
        ("brown", "tan", "chestnut"),
    ),
    "size": (
        ("small", "compact", "mini"),
        ("large", "oversized", "extra large"),
        ("lightweight", "ultralight", "featherweight"),
    ),
}  # fmt: skip
"""Attribute -> values -> words for that value, the first one the plainest."""

ATTRIBUTE_WEIGHT: Final = {"audience": 1.5, "brand": 1.2, "price": 0.9, "colour": 0.6, "size": 0.4}
"""Logit gained when an ad has what the query asks for, and lost when it says something else. They differ on purpose:
a model that only counts shared words cannot know them."""

PHRASES: Final[dict[str, float]] = {
    "free shipping": 0.35,
    "clearance sale": 0.25,
    "top rated": 0.3,
    "refurbished": -0.8,
    "second hand": -0.9,
    "out of stock soon": 0.0,
    "new arrival": 0.0,
    "official store": 0.15,
    "2 year warranty": 0.1,
    "easy returns": 0.0,
    "shop online today": 0.0,
    "while stocks last": 0.0,
    "as seen on tv": -0.3,
    "gift idea": 0.0,
    "weekend deals": 0.0,
    "not for resale": -0.4,
}
"""Closing phrases of titles and their logits; most only lengthen the title."""
