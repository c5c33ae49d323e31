"""Which language an instruction is written in, as far as its script and its commonest words tell.

Scripts of one language tell it (Hangul is Korean); scripts of several are named by themselves ("cyrillic"). Among
languages in Latin letters, those of `_WORDS` are told apart by articles, prepositions and the verbs of editing. A text
without any such word ("Vignette", "HDR sunset") cannot be told, nor can one with as many words of another: None is then
the answer, never a guess. It is meant for short requests; a translation hidden in a long text is not found.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

_SCRIPTS: tuple[tuple[str, str], ...] = (
    ("HANGUL", "ko"),
    ("HIRAGANA", "ja"),
    ("KATAKANA", "ja"),
    ("CJK", "zh"),
    ("CYRILLIC", "cyrillic"),
    ("ARABIC", "arabic"),
    ("HEBREW", "he"),
    ("GREEK", "el"),
    ("THAI", "th"),
    ("DEVANAGARI", "devanagari"),
    ("LATIN", "latin"),
)
"""Beginning of a character's Unicode name to what it tells."""

_WORDS: dict[str, frozenset[str]] = {
    language: frozenset(words.split())
    for language, words in {
        "en": "the a an of to in on with and into from for by at it its is are be this that his her their him them add "
        "remove delete change replace make turn put place move adjust transform transfer convert give let keep apply "
        "swap erase extract rotate increase decrease brighten darken paint draw set show raise lower open close image "
        "background color colour style photo picture more less behind left right person woman man all",
        "de": "der die das den dem des ein eine einen einem einer und im in mit zu zum zur auf aus von für nicht ist "
        "mache mach ersetze entferne ändere füge hinzu setze stelle lass bild hintergrund farbe person mehr hinter",
        "fr": "le la les un une des du de et dans avec sur par pour au aux en est à son sa ses ce cette ajoute ajouter "
        "ajoutez supprime supprimer supprimez enlève enlever remplace remplacer remplacez change changer changez mets "
        "mettre mettez rends rendez image fond couleur plus",
        "es": "el la los las un una de del y en con por para al es su sus esta este añade añadir agrega agregar quita "
        "elimina eliminar reemplaza cambia cambiar pon haz convierte imagen fondo color más",
        "it": "il lo la gli le un una di del della e in con per al alla è suo sua questa questo aggiungi aggiungere "
        "rimuovi togli sostituisci cambia cambiare metti rendi trasforma immagine sfondo colore più nel nella",
        "pt": "o a os as um uma de do da dos e em no na com por para ao à é seu sua esta este adicione adicionar "
        "acrescente remova remover substitua mude mudar troque coloque faça transforme imagem fundo cor mais",
        "nl": "de het een van en in op met te voor aan is zijn haar dit dat voeg toe verwijder vervang verander maak "
        "zet plaats laat afbeelding achtergrond kleur meer achter",
    }.items()
}
LANGUAGES: tuple[str, ...] = (*_WORDS, *dict.fromkeys(name for _, name in _SCRIPTS if name != "latin"))
"""What `language_of` can answer."""
_WORD = re.compile(r"[^\W\d_]+")
_QUOTED = re.compile(r"(?<![A-Za-z])'[^']*'(?![A-Za-z])|\"[^\"]*\"|“[^”]*”|‘[^’]*’|「[^」]*」")


def language_of(text: str) -> str | None:
    """One of `LANGUAGES`; None when it cannot be told. What stands in quotes (a sign's new words) is not looked at."""
    text = _QUOTED.sub(" ", text)
    scripts = Counter(script for char in text if (script := _script(char)) is not None)
    if not scripts:
        return None
    if scripts["ja"]:  # Japanese is written with Chinese characters too
        scripts["ja"] += scripts.pop("zh", 0)
    [(script, most), *others] = scripts.most_common(2)
    if script != "latin":
        return script if not others or most > others[0][1] else None
    words = [word.casefold() for word in _WORD.findall(text)]
    # A word that several languages have is a part of a vote for each.
    owners = {word: [name for name, known in _WORDS.items() if word in known] for word in set(words)}
    votes: Counter[str] = Counter()
    for word in words:
        for name in owners[word]:
            votes[name] += 12 // len(owners[word])
    if not votes:
        return None
    [(best, count), *rest] = votes.most_common(2)
    return best if not rest or count > rest[0][1] else None


def _script(char: str) -> str | None:
    if char.isascii():
        return "latin" if char.isalpha() else None
    name = unicodedata.name(char, "")
    return next((script for start, script in _SCRIPTS if name.startswith(start)), None)
