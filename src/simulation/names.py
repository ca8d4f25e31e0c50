"""Invented names of artists and tracks, to make lists of recommendations readable."""
# ruff: noqa: SIM905 - lines of text are easier to read and edit than lists

import numpy as np

_ADJECTIVES = """
Amber Arctic Blue Brave Broken Burning Cheap Copper Cosmic Crimson Crystal Distant Electric Empty Faded Fearless
Gentle Ghostly Golden Grey Hidden Hollow Honest Hungry Indigo Iron Ivory Jaded Little Lonely Lost Lucky Lunar
Marble Midnight Modern Neon Northern Paper Patient Plastic Polite Quiet Restless Royal Rusty Scarlet Secret
Silent Silver Sleepy Solar Southern Stray Sudden Tender Velvet Violet Wandering Wild Winter Wooden
""".split()
_NOUNS = """
Anchor Arrow Balloon Beacon Bridge Camera Candle Canyon Captain Carousel Castle Cathedral Comet Carnival Coyote
Diamond Engine Feather Fire Fountain Garden Ghost Harbour Horizon Island Kite Ladder Lantern Letter Lighthouse
Lion Meadow Mirror Monument Moon Mountain Needle Ocean Orchard Parade Pilot Planet Postcard Radio Raven River
Robot Rocket Saint Satellite Shadow Sparrow Station Summer Theatre Tiger Tower Train Umbrella Valley Window
Willow
""".split()
_FIRST = """
Ada Agnes Alma Amir Anton Astrid Bela Bruno Carmen Cecil Clara Dario Delia Edith Elias Emil Esme Farah Felix
Flora Gideon Greta Hana Hugo Ida Ines Ivan Jonas Josie Juno Kasper Kiran Lena Leo Lila Lucia Magnus Maja Marta
Milo Mina Nadia Nico Nora Olga Omar Oscar Petra Quinn Rafael Rosa Ruben Salma Selma Stella Tariq Thea Tobias Uma
Vera Viktor Yara
""".split()
_LAST = """
Abbott Alder Ashdown Barlow Bellamy Birch Bloom Brandt Calloway Carver Castell Cole Crane Dahl Delacroix Dunne
Ekman Ellery Fairfax Falk Fenn Forsythe Frost Gallo Grey Hale Hart Hawke Holm Ibarra Jarvis Keane Kovac Lark
Lindqvist Lowe Marlowe Mercer Moreau Nakata Nash Novak Okafor Orton Paige Pryce Quill Ravel Reyes Rowe Sable
Sato Sinclair Sorel Thorne Tolland Usher Vale Varga Wilde Winslow Yates
""".split()
_PLACES = """
Attic Border City Coast Dark Desert Elevator Evening Factory Forest Hallway Kitchen Lake Market Morning Motel
Museum Night North Orchard Rain River Road Sea Shade Snow South Stairs Storm Street Suburbs Sun Tunnel Valley
Water Wind
""".split()


def artist_names(num: int, rng: np.random.Generator) -> list[str]:
    """Different names of bands and singers."""
    patterns = [
        (_ADJECTIVES, _NOUNS, "The {} {}s"),
        (_FIRST, _LAST, "{} {}"),
        (_FIRST, _NOUNS, "{} & the {}s"),
        (_ADJECTIVES, _NOUNS, "{} {}"),
    ]
    pool = [form.format(first, second) for firsts, seconds, form in patterns for first in firsts for second in seconds]
    # a repeated name gets a number
    names = [f"{name} {copy + 1}" if copy else name for copy in range(-(-num // len(pool))) for name in pool]
    return [names[place] for place in rng.permutation(len(names))[:num].tolist()]


def track_titles(num: int, rng: np.random.Generator) -> list[str]:
    """Titles of tracks; some occur more than once, as real titles do."""
    patterns = [
        (_ADJECTIVES, _NOUNS, "{} {}"),
        (_NOUNS, _PLACES, "{} in the {}"),
        (_FIRST, _PLACES, "{} and the {}"),
        (_NOUNS, _NOUNS, "{} to {}"),
    ]
    chosen = [patterns[pool] for pool in rng.integers(len(patterns), size=num)]
    return [
        form.format(firsts[int(left * len(firsts))], seconds[int(right * len(seconds))])
        for (firsts, seconds, form), (left, right) in zip(chosen, rng.random((num, 2)).tolist(), strict=True)
    ]
