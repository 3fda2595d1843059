"""What an inspection shows, as plain data: nodes with all that is known of them, totals, a timeline."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Histogram:
    """Counts of calibration values in equal bins over [lo, hi]; allowed: the format's range, where there is one."""

    lo: float
    hi: float
    counts: tuple[int, ...]
    allowed: tuple[float, float] | None


@dataclass(frozen=True)
class Fit:
    """A function and the series that a bootstrap computes in its stead, at points x over the allowed range.

    Errors are shares of the function's range; dead_zone: half the width around jumps that does not count, in x.
    """

    functions: str
    degree: int
    max_error: float
    rms_error: float
    dead_zone: float
    x: tuple[float, ...]
    exact: tuple[float, ...]
    series: tuple[float, ...]


@dataclass(frozen=True)
class NoiseBudget:
    """Predicted rms errors in real units, by origin, and as a share of the value's range.

    total: as simulated when the program was compiled, else what the parts come to if they are independent. bits_left:
    how many bits ciphertext noise may still grow before the noise validator refuses the program.
    """

    ciphertext: float
    bootstrap: float
    approximation: float
    total: float
    share: float
    bits_left: float | None


@dataclass(frozen=True)
class Positions:
    """A layout: enough to draw which coefficients of which ciphertext are used."""

    ring: int
    batch: int
    features: int
    parts: int
    chunks: int
    stride: int
    batch_stride: int
    used: int
    occupancy: float


@dataclass(frozen=True)
class Choice:
    """A candidate of a decision: seconds, and why it lost (or won)."""

    name: str
    seconds: float | None
    reason: str
    chosen: bool


@dataclass(frozen=True)
class Ruling:
    """A decision of a pass for a node."""

    made_by: str
    choices: tuple[Choice, ...]
    warning: str


@dataclass(frozen=True)
class NodeReport:
    """One node. kind: input, linear, function, bootstrap, switch, unpack, client, output or other.

    layout and fit: indices into the report's lists, which equal ones share. measured: seconds of a recorded pass.
    """

    id: int
    kind: str
    op: str
    expression: str
    location: str
    operands: tuple[int, ...]
    users: tuple[int, ...]
    shape: tuple[int, ...]
    scheme: str
    encoding: str
    bits: int | None
    range: tuple[float, float] | None
    histogram: Histogram | None
    fit: int | None
    noise: NoiseBudget | None
    layout: int | None
    predicted: float | None
    measured: float | None
    decisions: tuple[Ruling, ...]
    place: tuple[float, float]


@dataclass(frozen=True)
class EdgeReport:
    """bends: points between the two nodes that the line goes through."""

    source: int
    target: int
    bends: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Span:
    """A stretch of the timeline: one or several instructions of one kind for one node."""

    start: float
    seconds: float
    kind: str
    node: int
    count: int


@dataclass(frozen=True)
class Fact:
    """A line of the totals."""

    name: str
    value: str
    detail: str


@dataclass(frozen=True)
class Report:
    """predicted, measured: timelines in seconds (empty where there is none). warning: shown above everything else.

    encrypted: whether measured times are those of an encrypted run. width, height, pitch: of the drawing, see Placing.
    """

    title: str
    stage: str
    level: str
    secure: bool
    warning: str
    facts: tuple[Fact, ...]
    notes: tuple[str, ...]
    run: tuple[Fact, ...]
    encrypted: bool
    nodes: tuple[NodeReport, ...]
    edges: tuple[EdgeReport, ...]
    layouts: tuple[Positions, ...]
    fits: tuple[Fit, ...]
    predicted: tuple[Span, ...]
    measured: tuple[Span, ...]
    width: float
    height: float
    pitch: float
