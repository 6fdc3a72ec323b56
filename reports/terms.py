"""What the words of the pages mean, told where they stand."""

from markupsafe import Markup, escape

MEANINGS = {
    "robust": "The share of all samples that the model gets right and that no attack tried could "
    "push into a wrong answer. Other attacks may find more, so it is an upper bound.",
    "clean": "The share of unaltered samples that the model gets right.",
    "eps": "The largest change that the attacker may make to a sample, in the units of the data "
    "and by the norm named beside it. A sample counts as broken if any change up to ε breaks it.",
    "linf": "Every single value may change by at most ε: for an image, each channel of each pixel.",
    "l2": "The Euclidean length of the whole change, the root of the sum of its squares, is at "
    "most ε.",
    "l1": "The sum of all absolute changes is at most ε.",
    "l0": "At most ε values (for images, pixels) may change, each as far as it likes.",
    "patch": "Only pixels inside one square whose side is ε may change, each as far as it likes.",
    "interval": "Other samples of the same kind would have given a somewhat different figure. An "
    "interval made like this one holds the true rate in 95 of 100 such cases.",
    "query": "One answer of the model about one sample, as the attacker saw it.",
    "forward": "One run of the model on one sample.",
    "backward": "One gradient of the model at one sample, which costs about twice a forward.",
    "naive": "An attack that takes the model as it is deployed, knowing of no defense.",
    "adaptive": "An attack that knows the defenses, and looks through them for a gradient.",
    "mcnemar": "McNemar's test compares two models on the same samples: it only looks at those "
    "that one gets right and the other wrong, and asks how likely so uneven a split is by chance.",
    "p": "How likely a difference at least as large would be if there were none in truth. Small "
    "values speak against chance; they say nothing of how large the difference is.",
    "targeted": "The attacker must reach one chosen class; otherwise any wrong class counts.",
    "certified": "A proof, not a search: no change below the radius alters the answer. What is "
    "certified is a lower bound of the truth, what attacks leave an upper one.",
    "perturbation": "The adversarial example minus the original. Shown magnified, for most are too "
    "small to be seen.",
    "confidence": "The largest softmax probability, as the model gives it. It need not be right "
    "as often as that.",
    "pareto": "The models that no other one exceeds in clean and robust accuracy at once.",
    "masked": "A model masks its gradients if they mislead gradient-based attacks: it looks robust "
    "to them, while adversarial examples are there.",
    "margin": "How far the right class's score is ahead of the best other one. Below zero the "
    "answer is wrong.",
    "radius": "The distance up to which a certificate holds, in the L2 norm.",
}


class Terms:
    """The terms of one page: each occurrence is a button that opens what it means beside it, with
    no script. Paper has it in brackets where a term first occurs, or below (`later`, `meanings`).
    """

    def __init__(self) -> None:
        self._count = 0
        self._told = set[str]()
        self._waiting = dict[str, str]()

    def __call__(self, term: str, words: str) -> Markup:
        """`words`, and behind them the meaning of that term, a key of MEANINGS."""
        first = "" if term in self._told else ' class="first"'
        self._told.add(term)
        return self._button(term, words, first)

    def later(self, term: str, words: str) -> Markup:
        """The same where brackets would be in the way, as in a heading."""
        if term not in self._told:
            self._waiting[term] = words
            self._told.add(term)
        return self._button(term, words, "")

    def meanings(self) -> Markup:
        """For paper, what the terms mean that were to be told later."""
        pairs = (
            f"<dt>{escape(words)}</dt><dd>{escape(MEANINGS[term])}</dd>"
            for term, words in self._waiting.items()
        )
        told = "".join(pairs)
        self._waiting = {}
        return Markup(f'<dl class="meanings">{told}</dl>' if told else "")

    def _button(self, term: str, words: str, kind: str) -> Markup:
        self._count += 1
        return Markup(
            f'<span class="term"><button type="button" popovertarget="term-{self._count}">'
            f'{escape(words)}</button><span popover id="term-{self._count}"{kind}>'
            f"{escape(MEANINGS[term])}</span></span>"
        )
