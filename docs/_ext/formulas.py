"""Formulas of docstrings as LaTeX.

Docstrings write formulas so that a terminal can show them, as ``e**2 / (2 rho)``. Each loss has its
formula in one place then, and the site sets it in type.
"""

from __future__ import annotations

import re
from typing import NamedTuple

LITERAL = re.compile(r"``([^`]+)``")
TOKEN = re.compile(
    r"(?P<space>\s*)(?:(?P<number>\d+(?:\.\d+)?)|(?P<name>[A-Za-z]\w*)"
    r"|(?P<sign>\*\*|[-+*/()\[\],|!]|(?<=\s)=(?=\s)))"
)
FUNCTIONS = {"exp", "log", "max", "min"}
GREEK = {"alpha", "epsilon", "gamma", "pi", "rho"}


class FormulaError(ValueError):
    """The text is no formula."""


class Token(NamedTuple):
    """A number, a name or a sign, and whether it follows the one before without a space."""

    text: str
    kind: str
    is_adjacent: bool


def to_latex(text: str) -> list[str]:
    """Translate a formula, in pieces between which a line may end.

    What is no formula, such as a call or a name alone, raises `FormulaError`.
    """
    reader = _Reader(text)
    pieces = reader.pieces()
    reader.end()
    if len(reader.tokens) == 1:
        raise FormulaError(text)
    return pieces


def with_math(line: str) -> str:
    """Make mathematics of the formulas among the literals of a line of reStructuredText."""

    def translated(found: re.Match[str]) -> str:
        try:
            # No space stands between the pieces, for signs bring theirs.
            return r"\ ".join(f":math:`{piece}`" for piece in to_latex(found[1]))
        except FormulaError:
            return found[0]

    return LITERAL.sub(translated, line)


def symbol(name: str, index: str = "") -> str:
    """Return a name in type: letters slanted, words upright, digits behind a letter as an index."""
    if indexed := re.fullmatch(r"([A-Za-z])(\d|_\w)", name):
        name, digit = indexed[1], indexed[2].lstrip("_")
        index = f"{digit}, {index}" if index else digit
    if name in FUNCTIONS | GREEK:
        latex = rf"\{name}"
    else:
        latex = name if len(name) == 1 else rf"\text{{{name}}}"
    return f"{latex}_{{{index}}}" if index else latex


def bare(latex: str) -> str:
    """Take off parentheses around all of a formula, where a bar or a height says as much."""
    depth = 0
    for found in re.finditer(r"\\left[(|]|\\right[)|]", latex):
        depth += 1 if "left" in found[0] else -1
        if not depth:
            is_whole = latex.startswith(r"\left(") and found.end() == len(latex)
            return latex[len(r"\left(") : -len(r"\right)")] if is_whole else latex
    return latex


class _Reader:
    """A recursive descent; two factors side by side are a product, as on paper."""

    def __init__(self, text: str) -> None:
        self.tokens: list[Token] = []
        self.place = 0
        self.is_between_bars = False
        end = 0
        while found := TOKEN.match(text, end):
            kind = found.lastgroup or ""
            self.tokens.append(Token(found[kind], kind, not found["space"]))
            end = found.end()
        if end != len(text) or not self.tokens:
            raise FormulaError(text)

    def peek(self) -> Token:
        return self.tokens[self.place] if self.place < len(self.tokens) else Token("", "end", False)

    def take(self, *signs: str) -> str:
        """Take the next token if it is one of these signs."""
        token = self.peek()
        if token.kind != "sign" or token.text not in signs:
            return ""
        self.place += 1
        return token.text

    def expect(self, sign: str) -> None:
        if not self.take(sign):
            raise FormulaError(f"{sign} expected, got {self.peek().text!r}")

    def end(self) -> None:
        if self.peek().kind != "end":
            raise FormulaError(self.peek().text)

    def pieces(self) -> list[str]:
        """Read sums and their equations term by term; a sign stands between two terms."""
        terms = [self.take("-") + self.product()]
        while sign := self.take("=", "+", "-"):
            minus = self.take("-") if sign == "=" else ""
            terms.append(f"{{}} {sign} {minus}{self.product()}")
        return terms

    def sum(self) -> str:
        latex = self.take("-") + self.product()
        while sign := self.take("+", "-"):
            latex += f" {sign} {self.product()}"
        return latex

    def product(self) -> str:
        latex = self.power()
        while True:
            if self.take("/"):
                latex = rf"\frac{{{bare(latex)}}}{{{bare(self.power())}}}"
            elif self.take("*"):
                latex += rf" \cdot {self.power()}"
            elif self.peek().kind in {"number", "name"} or self.peek().text in {"(", "["}:
                latex += rf"\,{self.power()}"
            else:
                return latex

    def power(self) -> str:
        base = self.atom()
        return f"{{{base}}}^{{{bare(self.atom())}}}" if self.take("**") else base

    def atom(self) -> str:
        if self.take("("):
            latex = self.sum()
            self.expect(")")
            return rf"\left({latex}\right)"
        if not self.is_between_bars and self.take("|"):
            return self.absolute()
        token = self.peek()
        if token.kind not in {"number", "name"}:
            raise FormulaError(token.text)
        self.place += 1
        return token.text if token.kind == "number" else self.named(token.text)

    def absolute(self) -> str:
        self.is_between_bars = True
        latex = self.sum()
        self.is_between_bars = False
        self.expect("|")
        return rf"\left|{latex}\right|"

    def named(self, name: str) -> str:
        """Read what belongs to a name: an index, arguments, the sign of a factorial."""
        latex = symbol(name, self.arguments("]") if self.take("[") else "")
        if not self.peek().is_adjacent:
            return latex
        if self.take("("):
            return rf"{latex}\left({self.arguments(')')}\right)"
        if not self.is_between_bars and self.take("|"):
            return latex + self.absolute()
        return latex + self.take("!")

    def arguments(self, closing: str) -> str:
        latex = self.sum()
        while sign := self.take(",", "|"):
            latex += (", " if sign == "," else r" \mid ") + self.sum()
        self.expect(closing)
        return latex
