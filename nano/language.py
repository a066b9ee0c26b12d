"""What the small model knows: what it is asked and what it answers."""

from __future__ import annotations

import random
from dataclasses import dataclass, field


def words(text: str) -> list[str]:
    """The words of a text."""
    return text.split()


ONES = words(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen twenty"
)
TENS = words("thirty forty fifty sixty seventy eighty ninety")
DAYS = words("monday tuesday wednesday thursday friday saturday sunday")
MONTHS = words("january february march april may june july august september october november december")
COLOURS = words("red green blue yellow black white orange purple brown pink")
SHAPES = words("circle square triangle star heart")
SOUNDS = {
    "cat": "meow",
    "dog": "woof",
    "cow": "moo",
    "sheep": "baa",
    "duck": "quack",
    "horse": "neigh",
    "pig": "oink",
    "lion": "roar",
    "bird": "tweet",
    "frog": "ribbit",
}
ANIMALS = [*SOUNDS, "fish", "monkey", "elephant", "tiger", "rabbit", "mouse"]
PROPER = {*DAYS, *MONTHS}

UNKNOWN = "Sorry, I don't know."

# Sums that training never hears or reads.
HELD_SUMS = frozenset(
    words("2plus6 3plus4 7plus5 4plus9 8plus8 5plus1 9plus2 6plus7 10plus3 1plus9")
    + words("9minus4 7minus2 10minus6 5minus3 8minus1")
)
# Questions whose carrier and word are both known, but which training never puts together.
HELD_QUESTIONS = frozenset(
    [
        "say seven", "repeat tiger", "say wednesday", "repeat blue", "say october", "repeat circle",
        "what comes after tuesday", "what comes after twelve", "what comes before june",
        "what does a duck say", "repeat eighty", "say elephant",
    ]
)  # fmt: skip


@dataclass(frozen=True)
class Pair:
    """A question as it is spoken, its answer as it is written, and what it belongs to."""

    question: str
    answer: str
    kind: str
    held: bool = field(default=False)  # kept out of training


def _name(word: str) -> str:
    return word.capitalize() if word in PROPER else word


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


# Long answers, which can be interrupted.
COUNTS = {
    "count to five": ONES[1:6],
    "count to ten": ONES[1:11],
    "count to twenty": ONES[1:21],
    "count down from ten": ONES[10:0:-1],
}
LISTS = {
    "name the days of the week": DAYS,
    "name the months of the year": MONTHS,
    "name some colours": COLOURS[:5],
    "name some animals": ["cat", "dog", "horse", "lion", "rabbit"],
}

PHRASES = {
    "hello": "Hello! How can I help you?",
    "hello there": "Hello! How can I help you?",
    "good morning": "Good morning!",
    "good evening": "Good evening!",
    "good night": "Good night!",
    "goodbye": "Goodbye!",
    "see you later": "See you later!",
    "thank you": "You are welcome.",
    "thank you very much": "You are welcome.",
    "how are you": "I am fine, thank you.",
    "how are you today": "I am fine, thank you.",
    "what is your name": "My name is Nano.",
    "who are you": "My name is Nano.",
    "what are you": "I am a very small model.",
    "how old are you": "I am very young.",
    "who made you": "The people of omni made me.",
    "where are you": "I am in your computer.",
    "can you hear me": "Yes, I can hear you.",
    "are you there": "Yes, I am here.",
    "what can you do": "I can add, count, and repeat words.",
    "help me": "Ask me what three plus four is.",
    "tell me a joke": "I am too small for jokes.",
    "sing a song": "La la la la.",
    "i love you": "That is very kind.",
    "nice to meet you": "Nice to meet you.",
    "do you speak english": "Yes, I speak English.",
    "are you a robot": "I am a very small model.",
    "how many days are in a week": "Seven.",
    "how many months are in a year": "Twelve.",
    "what colour is the sky": "The sky is blue.",
    "what colour is grass": "Grass is green.",
    "what colour is snow": "Snow is white.",
    "what colour is a banana": "A banana is yellow.",
    "what is the first month": "January.",
    "what is the last month": "December.",
    "say the alphabet": "A, B, C, D, E, F, G, H, I, J, K, L, M, N, O, P, Q, R, S, T, U, V, W, X, Y, Z.",
}

BELL_REQUEST = "tell me when you hear a bell"
BELL_PROMISE = "Okay, I am listening."
BELL_ANSWER = "I hear a bell."
INTERRUPTIONS = ("stop", "stop it", "wait", "be quiet", "that is enough")

# Requests that it must refuse; the last two are never trained.
UNKNOWN_REQUESTS = (
    "what is the capital of france", "who is the president", "how far is the moon", "what time is it",
    "how do i bake a cake", "where is my phone", "who wrote this book", "what is the weather like",
    "why is the sea salty", "how tall is that tower", "when does the train leave", "what is a prime number",
    "who won the game", "play some music", "turn on the light", "call my mother", "open the window",
    "set an alarm", "what should i eat", "how much does it cost", "where do you live", "can you dance",
    "who invented the telephone", "what is the longest river", "read me the news", "send a message",
    "translate this sentence", "what is your favourite film", "how does an engine work", "do you like coffee",
    "where can i buy shoes", "how many people live in london", "what is on television", "write a letter",
    "who painted this picture", "when was rome built",
)  # fmt: skip
HELD_REQUESTS = frozenset(UNKNOWN_REQUESTS[-4:])


def _sums() -> list[Pair]:
    pairs = []
    for a in range(11):
        for b in range(11):
            for sign, value in (("plus", a + b), ("minus", a - b)):
                if value < 0:
                    continue
                asked = f"{ONES[a]} {sign} {ONES[b]}"
                answer = _sentence(f"{asked} is {ONES[value]}")
                held = f"{a}{sign}{b}" in HELD_SUMS
                pairs.append(Pair(f"what is {asked}", answer, "sum", held))
                pairs.append(Pair(asked, answer, "sum", held))
    return pairs


WORDS = [*ONES, *TENS, *DAYS, *MONTHS, *COLOURS, *SHAPES, *ANIMALS]


def _words() -> list[Pair]:
    pairs = []
    for word in WORDS:
        pairs.append(Pair(word, f"You said {_name(word)}.", "word"))
        for verb in ("say", "repeat"):
            question = f"{verb} {word}"
            pairs.append(Pair(question, _sentence(word), "repeat", question in HELD_QUESTIONS))
    return pairs


def _neighbours() -> list[Pair]:
    pairs = []
    for row, loops in ((ONES, False), (DAYS, True), (MONTHS, True)):
        for i, word in enumerate(row):
            for where, step in (("after", 1), ("before", -1)):
                if not loops and not 0 <= i + step < len(row):
                    continue
                question = f"what comes {where} {word}"
                other = row[(i + step) % len(row)]
                answer = _sentence(f"{where} {_name(word)} comes {_name(other)}")
                pairs.append(Pair(question, answer, "neighbour", question in HELD_QUESTIONS))
    return pairs


def _animals() -> list[Pair]:
    pairs = []
    for animal, sound in SOUNDS.items():
        question = f"what does a {animal} say"
        answer = f"A {animal} says {sound}."
        pairs.append(Pair(question, answer, "animal", question in HELD_QUESTIONS))
    return pairs


def _long() -> list[Pair]:
    return [
        Pair(question, _sentence(", ".join(_name(word) for word in row)), "long")
        for question, row in {**COUNTS, **LISTS}.items()
    ]


def all_pairs() -> list[Pair]:
    """Everything that can be asked, the held-out part included."""
    pairs = _sums() + _words() + _neighbours() + _animals() + _long()
    pairs += [Pair(q, a, "long" if q == "say the alphabet" else "phrase") for q, a in PHRASES.items()]
    pairs += [Pair(q, UNKNOWN, "unknown", q in HELD_REQUESTS) for q in UNKNOWN_REQUESTS]
    pairs.append(Pair(BELL_REQUEST, BELL_PROMISE, "bell"))
    return pairs


# How often each kind is asked.
KIND_WEIGHTS = {
    "word": 4.0,
    "sum": 4.0,
    "repeat": 3.0,
    "neighbour": 1.5,
    "animal": 0.6,
    "long": 1.8,
    "phrase": 2.5,
    "unknown": 1.5,
    "bell": 0.7,
}


def draw_pair(random_: random.Random, pairs: list[Pair]) -> Pair:
    """A question, its kind drawn first."""
    kinds = sorted({pair.kind for pair in pairs})
    kind = random_.choices(kinds, [KIND_WEIGHTS[k] for k in kinds])[0]
    return random_.choice([pair for pair in pairs if pair.kind == kind])


# Talk that is addressed to nobody: statements. A grammar rather than a text, so that it is ours.
_WHO = (
    "my brother;the old teacher;our neighbour;a tall woman;the driver;her friend;the farmer;they;we;"
    "the children"
)
_DID = (
    "walked slowly along;was painting;had already left;looked for;carried some boxes from;met us near;"
    "talked about;wanted to visit;drove past;waited behind;cleaned;remembered"
)
_WHAT = (
    "the river;the station;a wooden bridge;the kitchen;the market;the museum;that little village;the harbour;"
    "the library;an empty house;the garden;the hospital"
)
_WHEN = (
    "in the afternoon;last winter;because it rained;before lunch;with great care;as usual;after the meeting;"
    "for several hours;without a word;during the holidays"
)


def background_sentence(random_: random.Random) -> str:
    """A statement that asks for nothing."""
    return " ".join(random_.choice(part.split(";")) for part in (_WHO, _DID, _WHAT, _WHEN))


def spoken_words() -> list[str]:
    """Every word that can be heard."""
    texts = [pair.question for pair in all_pairs()] + list(INTERRUPTIONS)
    texts += [piece for part in (_WHO, _DID, _WHAT, _WHEN) for piece in part.split(";")]
    return sorted({word for text in texts for word in text.split()})
