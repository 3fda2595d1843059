"""Random networks in the language of ``.glyph`` files, most of them good ones."""

from __future__ import annotations

from random import Random

from .mutate import integer, real

_FUNCTIONS = (
    *("relu", "tanh", "sigmoid", "gelu", "silu", "abs", "exp", "softplus", "sqrt", "sign", "round(0.5)", "floor(0.25)"),
    *("leaky_relu(0.1)", "clip(-1, 2)", "elu(1)", "pow(2)", "pow(3)", "hard_sigmoid(0.2, 0.5)", "maximum(0.3)"),
    *("greater(0)", "gate", "step", "log", "reciprocal", "affine(2, 1)", "quadratic(1, 2, 3)"),
)
_TAILS = ("", "", "", " -> softmax", " -> argmax", " -> log_softmax", " -> hardmax", " -> argmax(keepdims=true)")


class _Text:
    def __init__(self, random: Random) -> None:
        self.random = random
        self.hostile = random.choice((0.0, 0.0, 0.0, 0.05, 0.2))
        self.count = 0

    def number(self, usual: int) -> str:
        if self.random.random() < self.hostile:
            return str(integer(self.random) if self.random.random() < 0.7 else real(self.random))
        return str(usual)

    def label(self) -> str:
        self.count += 1
        return f"l{self.count}"

    def flat(self) -> str:
        """A step from a flat value to a flat one."""
        match self.random.randrange(9):
            case 0 | 1 | 2:
                return f"dense({self.number(self.random.randint(1, 5))}) as {self.label()}"
            case 3 | 4 | 5:
                return self.random.choice(_FUNCTIONS)
            case 6:
                return f"scale({self.number(2)}, {self.number(-1)})"
            case 7:
                return f"dropout(0.{self.random.randrange(9)})"
            case _:
                function = self.random.choice(_FUNCTIONS)
                return f"apply({function}, {self.random.choice(_FUNCTIONS)})"

    def image(self) -> str:
        match self.random.randrange(6):
            case 0 | 1:
                padding = self.random.choice(("", ", padding=1", ", padding=same", f", stride={self.number(2)}"))
                kernel = self.random.choice((self.number(1), self.number(2), f"[{self.number(1)}, {self.number(2)}]"))
                return f"conv({self.number(2)}, {kernel}{padding}) as {self.label()}"
            case 2:
                return f"{self.random.choice(('max_pool', 'avg_pool'))}({self.number(self.random.randint(1, 2))})"
            case 3:
                return f"batch_norm(epsilon={self.number(1)}) as {self.label()}"
            case 4:
                return self.random.choice(("global_avg_pool", "global_max_pool", "identity"))
            case _:
                return self.random.choice(_FUNCTIONS)

    def network(self) -> str:
        random = self.random
        images = random.random() < 0.4
        sizes = [self.number(random.randint(1, 4)) for _ in range(3 if images else 1)]
        lines = [
            f"weights he_normal(seed={self.number(1)})",
            *([f"batch {self.number(random.randint(1, 4))}"] if random.random() < 0.4 else []),
            f"input x: encrypted [{', '.join(sizes)}]",
        ]
        steps = [self.image() for _ in range(random.randint(0, 3))] if images else []
        steps += ["flatten"] if images else []
        steps += [self.flat() for _ in range(random.randint(0, 3))]
        lines.append(f"h = x -> {' -> '.join(steps) or 'relu'}")
        newest = "h"
        for _ in range(random.randint(0, 2)):
            name = self.label()
            other = random.choice(("h", newest, self.number(2), f"[{self.number(1)}]"))
            form = random.choice(
                (
                    f"{newest} {random.choice(('+', '-', '*', '/', '**', '>', '<'))} {other}",
                    f"max({newest}, {other})",
                    f"concat({newest}, h)",
                    f"gather({newest}, indices=[{self.number(0)}, {self.number(0)}])",
                    f"gather(hardmax({newest}), indices=[{self.number(0)}])",
                    f"{newest} -> {self.flat()}",
                )
            )
            lines.append(f"{name} = {form}")
            newest = name
        lines.append(f"y = {newest} -> {self.flat()}{random.choice(_TAILS)}")
        lines.append("output y")
        if random.random() < 0.2:
            lines.append(f"quantize {{ activation_bits = {self.number(12)}  margin = {self.number(2)} }}")
        if random.random() < 0.1:
            lines.append(
                f"training {{ loss mse(y) optimizer sgd(learning_rate={self.number(1)}) epochs {self.number(2)} }}"
            )
        # tables take longer than all else that the reader does, so they are there only where they are used
        text = "\n".join(lines) + "\n"
        if "gate" in text:
            range_, factor = f"[{self.number(-4)}, {self.number(4)}]", self.number(2)
            text = f"activation gate(t) on {range_} = t * sigmoid({factor} * t)\n{text}"
        if "step" in text:
            text = f"activation step on [-4, 4] = table [0, 0, 1, 1]\n{text}"
        return text


def random_text(random: Random) -> str:
    return _Text(random).network()
