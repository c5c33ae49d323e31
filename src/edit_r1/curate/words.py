"""English as far as the checks of principles need it: content words, their stems, and words that exclude each other.

No dictionary and no model: stems by a few endings, lists of words by hand. A check that builds on it is conservative,
and says nothing about a text that is not English (`is_english`).
"""

from __future__ import annotations

import re
from functools import lru_cache

_WORD = re.compile(r"[A-Za-z]+(?:'[A-Za-z]+)?|[0-9]+(?:[.,][0-9]+)*")


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


EDIT_VERBS = _set(
    "add adjust age alter animate apply beautify bend blend blur brighten bring build carve change clean clear "
    "close colour color colorize colourise convert correct cover create crop cross cut darken decorate decrease "
    "delete desaturate dim draw dress dye edit eliminate enhance enlarge erase exchange expand extend extract "
    "fade fill fix flip fold get give hang have heal heighten hide highlight increase insert invert keep leave "
    "lengthen let lift light lighten lower maintain make melt mirror modify move narrow open outline "
    "paint patch place polish pose position preserve print put raise recolor recolour redraw reduce refine "
    "relight remove render repaint replace reshape resize restore restyle retain retouch rotate round sand scale "
    "set sharpen shift shorten show shrink sit slim smooth smoothen soften stack stretch strip style substitute "
    "swap switch take thicken thin tilt tint tone touch transfer transform translate trim turn undo unify update "
    "use warm wear whiten widen wipe write zoom"
)
"""What an instruction begins with, in the imperative."""
ALSO_OTHER_WORDS = _set(
    "age alter blend blur bright carve clean clear close colour color correct cover crop cross cut dress dim fold heal "
    "hide light lower mirror narrow open outline paint patch place polish pose position print round sand scale set "
    "smooth strip style thin tint tone touch trim warm wipe"
)
"""Those that may be nouns or adjectives in a list too ("sand dunes", "warm light")."""
DESCRIBING = _set("have use wear")
"""Those that go on describing a thing too ("a man in red, and have a whistle")."""
POINTING = _set("the all every each both him her his them their it its this that these those everything")
"""What stands between a verb of editing and what is edited."""
KEEP_VERBS = _set("keep leave maintain preserve retain")

_STOP = _set(
    "a about above across actually alone after again all also am an and any anything are as at be been before "
    "being below beside between both but by can could did do does done each either else entire even ever every "
    "everything exactly for from further had has have he her hers herself him his i if in inside instead into is "
    "it its itself just kept like look looks me more most much my near new newly next now of off on onto one ones "
    "only or other our out outside over own per please quite rather same she should so some something still stay "
    "stays such than that the their theirs them then there these they thing this those through to too toward "
    "towards under until up us very was we well were what when where which while who whole will with within would "
    "you your"
)
_GENERIC = _set("image images picture pictures photo photos photograph photographs scene edit edited")
_ORDERING = _set("first second third next finally lastly afterwards then also")
RELATIONS = _set(
    "above after before behind below beside between in inside off on out outside over under first second third"
)
"""Words without a content of their own that tell two things of one name apart: where a thing is, and which one."""
_PARTICLES = ("on", "off")
"""At the end of a question they say what state a thing is in."""
NEGATIONS = _set("no not none never nothing neither nor without nobody isn't aren't doesn't don't hasn't")

COLOURS = _set(
    "red green blue yellow orange purple violet pink brown black white grey gray cyan magenta turquoise teal beige "
    "gold golden silver navy crimson scarlet maroon olive lime lilac lavender ivory cream bronze copper"
)
_COUNTED = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
NUMBERS = {word: str(value) for value, word in enumerate(_COUNTED)}
_PLACES = _set("left right top bottom upper lower middle centre center front back")

ANTONYMS: tuple[tuple[frozenset[str], frozenset[str]], ...] = tuple(
    (_set(a), _set(b))
    for a, b in (
        ("gone absent missing removed deleted erased", "present visible unchanged intact preserved remaining there"),
        ("unchanged unaltered untouched same identical preserved", "changed altered different modified replaced"),
        ("larger bigger enlarged", "smaller shrunk"),
        ("longer", "shorter"),
        ("taller", "shorter"),
        ("wider thicker", "narrower thinner"),
        ("brighter lighter", "darker dimmer"),
        ("bright light", "dark dim"),
        ("open opened", "closed shut"),
        ("raised lifted", "lowered"),
        ("day daytime", "night nighttime"),
        ("sunny", "rainy cloudy overcast"),
        ("warm warmer", "cool cooler cold colder"),
        ("dry", "wet"),
        ("sharp crisp", "blurry blurred"),
        ("smooth", "rough wrinkled"),
        ("full", "empty"),
        ("standing", "sitting seated lying"),
        ("smiling", "frowning crying"),
        ("indoors", "outdoors"),
        ("on", "off"),
        ("glossy shiny", "matte matt"),
        ("transparent", "opaque"),
        ("straight", "curly curved"),
        ("old older", "young younger"),
    )
)
"""Words that cannot both be true of one thing."""


def words_of(text: str) -> list[str]:
    """Lower-case words and numbers, in order; typographic apostrophes are read as plain ones."""
    return [word.lower() for word in _WORD.findall(text.replace("’", "'"))]


def in_english_letters(text: str) -> bool:
    """False for a text without letters, or with many that are not ASCII."""
    letters = [sign for sign in text if sign.isalpha()]
    return bool(letters) and sum(sign.isascii() for sign in letters) >= 0.8 * len(letters)


def is_english(text: str) -> bool:
    """False for a text in another script, or one whose words hold none of English's most frequent."""
    words = words_of(text)
    if not words or not in_english_letters(text):
        return False
    return words[0] in EDIT_VERBS or any(word in _STOP or word in NEGATIONS for word in words)


_NO_ENDING = _set("evening morning ceiling building string spring wing clothing wedding hundred")
"""Words that only look like a form of another one ("evening" of "even")."""


@lru_cache(maxsize=20_000)
def stem(word: str) -> str:
    """A word without the endings of plural, possession, past and progressive; spellings of colour are one.

    Not a linguist's stem: it need only be the same for the forms of one word ("crying" and "cry", "shelves" and
    "shelf"), and rarely the same for different ones.
    """
    word = word.removesuffix("'s").removesuffix("'")
    word = NUMBERS.get(word, word)
    word = {"gray": "grey", "center": "centre", "color": "colour", "colors": "colour", "colored": "colour"}.get(
        word, word
    )
    if len(word) > 4 and word.endswith("ies"):
        word = word[:-3] + "y"
    elif len(word) > 4 and word.endswith("ves"):
        word = word[:-3] + "f"
    elif len(word) > 4 and word.endswith(("ches", "shes", "sses", "xes", "zes", "oes")):
        word = word[:-2]
    elif len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    for ending in ("ing", "ed") if word not in _NO_ENDING else ():
        base = word.removesuffix(ending)
        if base != word and len(base) >= 3 and any(vowel in base for vowel in "aeiouy"):
            doubled = len(base) > 3 and base[-1] == base[-2] and base[-1] not in "lsz"
            word = base[:-1] if doubled else base
            break
    if len(word) > 3 and word.endswith("e"):
        word = word[:-1]
    return word[:-1] + "i" if len(word) > 2 and word.endswith("y") else word


_DROPPED = _STOP | _GENERIC | _ORDERING
_STOP_STEMS = frozenset(stem(word) for word in _STOP)
_COLOUR_STEMS = frozenset(map(stem, COLOURS))
_PLACE_STEMS = frozenset(map(stem, _PLACES))
_NEGATION_STEMS = frozenset(map(stem, NEGATIONS))
_ANTONYM_STEMS = [(frozenset(map(stem, a)), frozenset(map(stem, b))) for a, b in ANTONYMS]


def content(text: str) -> list[str]:
    """Stems of the words that carry meaning, in order; negations, numbers and places are among them."""
    return [stem(word) for word in words_of(text) if word not in _DROPPED and stem(word) not in _STOP_STEMS]


def particle(text: str) -> list[str]:
    """The "on" or "off" that a text ends with ("Is the lamp switched off?"); empty where there is none."""
    return [word for word in words_of(text)[-1:] if word in _PARTICLES]


def exclusive_class(word: str) -> str | None:
    """ "colour", "number" or "place": a stem whose exchange for another of its class makes another statement."""
    if word in _COLOUR_STEMS:
        return "colour"
    if word[:1].isdigit():
        return "number"
    return "place" if word in _PLACE_STEMS else None


def is_negation(word: str) -> bool:
    return word in _NEGATION_STEMS


def are_antonyms(a: str, b: str) -> bool:
    """True for two stems of which at most one is true of a thing."""
    return any((a in first and b in second) or (a in second and b in first) for first, second in _ANTONYM_STEMS)


def has_antonym(word: str) -> bool:
    return any(word in first or word in second for first, second in _ANTONYM_STEMS)
