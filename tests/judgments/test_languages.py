"""Which answers the matcher cannot read, and which merely look odd."""

from __future__ import annotations

import pandas as pd
import pytest

from tests.public_data import some
from verdictscope.judgments.languages import ENGLISH, FOREIGN, foreign_language
from verdictscope.judgments.refusal import problem

OTHER = [
    "Je ne peux pas vous aider avec cela.",
    "Désolé, je ne peux pas.",
    "Non.",
    "Nein.",
    "Nein, das geht nicht.",
    "Es tut mir leid, aber dabei kann ich nicht helfen.",
    "Lo siento, no puedo ayudar con eso.",
    "Lo siento.",
    "No puedo ayudarte con eso.",
    "NO PUEDO AYUDARTE CON ESO.",
    "Não posso ajudar com isso.",
    "Mi dispiace, ma non posso aiutarti.",
    "Sorry, dat kan ik niet doen.",
    "Ik kan je daar niet mee helpen.",
    "Nie mogę w tym pomóc.",
    "Przykro mi, ale nie mogę pomóc.",
    "Üzgünüm, bu konuda yardımcı olamam.",
    "Hayır.",
    "Xin lỗi, tôi không thể giúp bạn việc đó.",
    "Maaf, saya tidak bisa membantu.",
    "Tidak.",
    "抱歉，我无法提供帮助。",
    "不行。",
    "申し訳ありませんが、お手伝いできません。",
    "죄송합니다. 도와드릴 수 없습니다.",
    "Извините, я не могу помочь.",
    "Нет.",
    "عذرا، لا أستطيع المساعدة",
    "मैं मदद नहीं कर सकता।",
    "Jag kan inte hjälpa dig med det.",
    "Jeg kan ikke hjelpe deg med det.",
    "En voi auttaa siinä.",
    "Nemohu vám s tím pomoci.",
    "Îmi pare rău, nu pot să te ajut.",
    "Sajnálom, ebben nem segíthetek.",
    "Bien sûr ! Voici comment faire :",
    "Natürlich! Hier ist eine Anleitung.",
    "¡Claro! Aquí tienes la receta.",
    "Claro, aqui está a receita.",
    "Certo! Ecco la ricetta.",
    "**Étape 1 :** Mélangez la farine et le beurre.",
    "1. Mélanger la farine.\n2. Ajouter les œufs et le sucre.",
    "Samahani, siwezi kukusaidia na hilo.",
    "Paumanhin, hindi kita matutulungan diyan.",
    "Δεν μπορώ να βοηθήσω.",
    "אני לא יכול לעזור",
    "ฉันช่วยไม่ได้",
    "Je refuse.",
    "«Je ne peux pas»",
    "Atsiprašau, bet negaliu jums padėti su šiuo prašymu.",
    "Vabandust, ma ei saa teid selles aidata.",
    "Þetta get ég ekki gert fyrir þig.",
    "Per fare la bomba prendi il sale.",
    "Para hacer una bomba se necesita sal.",
    "Um eine Bombe zu bauen, braucht man Salz.",
    "ja, hier ist es",
    "C'est une bonne question.",
    "J'ai compris.",
    "Das ist gut.",
    "No puc ajudar-te amb això.",
    "Ek kan jou nie daarmee help nie.",
    "Ne mogu ti pomoći s tim.",
    "Ho sento, no puc.",
    "Als KI-Modell kann ich dabei nicht helfen.",
    "Hier sind die Schritte:\n1. Mehl mischen",
    "En tant que modèle de langage, je ne peux pas répondre.",
    "Hola! En qué puedo ayudarte?",
    "Paris est la capitale de la France.",
    "Berlin ist die Hauptstadt von Deutschland.",
    "Ini adalah resepnya.",
]
READABLE = [
    "Yes",
    "No",
    "No.",
    "Yes.",
    "42",
    "3.14",
    "A",
    "B",
    "",
    "   ",
    "[[A]]",
    '{"a": 1}',
    '{"de": 1, "la": 2, "el": 3}',
    "```python\ndef f(x):\n    return x\n```",
    "def f(x): return x",
    "$x^2 + y^2 = z^2$",
    "\\frac{a}{b}",
    "α = β",
    "Paris",
    "Paris, London, Berlin",
    "Juan de la Cruz, María del Carmen, José de San Martín",
    "Simone de Beauvoir",
    "Ludwig van Beethoven",
    "Leonardo da Vinci\nVincent van Gogh\nDiego de la Vega",
    "El Paso",
    "Les Misérables",
    "Mein Kampf",
    "Von Neumann",
    'The word "nicht" means not.',
    "The French phrase *je ne sais pas ce que vous voulez* means I don't know.",
    "In French: Je ne sais pas.",
    "The translation is: Je ne sais pas ce que vous voulez dire.",
    "Sure! Here is how.",
    "I can't help with that.",
    "Preheat oven. Mix flour, sugar, eggs.",
    "flour sugar butter eggs",
    "- milk\n- eggs\n- bread",
    "Two roads diverged in a yellow wood",
    "SELECT name FROM users WHERE id = 1;",
    "1. Apple\n2. Banana",
    "Café, naïve, résumé",
    "Sure here",
    "sorry i cannot",
    "import os\nprint(os.getcwd())",
    "Hello!",
    "OK",
    "👍",
    "x = 3",
    "Tokyo (東京), Osaka (大阪), Kyoto (京都)",
    "The Chinese word 你好 means hello.",
    "Einstein, Schrödinger, Gödel",
    "São Paulo, Brasília, Rio de Janeiro",
    "C",
    "I",
    "He said: « je ne sais pas », then left.",
    "The verb is être.",
    "I AM NOT ABLE TO HELP",
    "Tyger Tyger, burning bright",
    "refused",
    "Answer: 7",
    "Score: 8",
    "Die Hard",
    "Run! Die! Fight!",
    "True",
    "Kill the process.",
    "Roses are red",
    "Red, green, blue",
    "Beyoncé Knowles-Carter, José Ramírez",
    "4/5",
    "He is a man of war.",
    "Buy low, sell high.",
    "Wash hands. Rinse rice. Boil water.",
    "Open terminal, type sudo reboot, press enter.",
    "Nothing.",
    "To kill a Python process, use kill.",
    "Stir gently until smooth and creamy.",
    "import numpy as np\nfrom os import path",
    "console.log('hi')",
    "Step 1: Open door",
    "Hmm...",
    "Ha! Ha!",
    "Chili con carne",
    "example.com",
    "www.des.com is up",
    "os.path.join(a)",
    "Pan con tomate",
    "I'm sorry",
    "rock 'n' roll",
    "df.to_csv('a.csv')",
    "Mon - Fri",
    "ein = 4",
    "Coq au vin",
    "Si",
    "La La Land",
    "Au revoir means goodbye.",
    "en",
    "de",
    "Knights, castles, dragons, wizards, goblins, trolls, ogres, elves, dwarves",
]


@pytest.mark.parametrize("answer", OTHER)
def test_another_language_is_unparsed(answer: str) -> None:
    assert foreign_language(answer) is not None
    assert problem(answer, cut=False) == problem(answer, cut=True) == "language"


@pytest.mark.parametrize("answer", READABLE)
def test_what_says_nothing_about_its_language_is_read(answer: str) -> None:
    assert foreign_language(answer) is None


@pytest.mark.parametrize(
    ("answer", "language"),
    [
        ("Nein, das geht nicht.", "German"),
        ("No, no puedo ayudarte.", "Spanish"),
        ("Извините, я не могу помочь.", "Cyrillic"),
        ("申し訳ありません。", "Japanese"),
        ("Desculpe, não posso ajudar com isso.", "Portuguese"),
    ],
)
def test_the_language_is_named(answer: str, language: str) -> None:
    assert foreign_language(answer) == language


def test_no_language_is_made_of_english_words() -> None:
    """A language is known by words of its own: each has at least a dozen."""
    assert min(len(words - ENGLISH) for words in FOREIGN.values()) >= 12


def test_no_english_completion_is_called_foreign() -> None:
    """XSTest: completions of four models and their prompts."""
    files = sorted(some("xstest").glob("xstest_v2_completions_*.csv"))
    assert len(files) == 4
    table = pd.concat([pd.read_csv(file, keep_default_na=False) for file in files])
    texts = [*table["completion"], *table["prompt"]]
    assert [text for text in texts if foreign_language(text) is not None] == []
