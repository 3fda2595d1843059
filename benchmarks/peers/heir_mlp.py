"""HEIR (leveled CKKS on OpenFHE) on the network of a case: python heir_mlp.py CASE.npz --samples N.

HEIR compiles MLIR to C++ for OpenFHE, which this script compiles against the library of OpenFHE's wheel. Each ReLU
is HEIR's own polynomial of degree 2, on the range where it is nearest at the values of training samples; a sample is
one ciphertext. Plaintexts of the weights are encoded once, with the keys.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import heir
import numpy as np
import openfhe
from measured import Measured
from polynomials import Case

# Of a ciphertext; HEIR chooses the ring by it, and by security.
SLOTS = 1024
TOOLS = Path(heir.__file__).parent
LIBRARY = Path(openfhe.__file__).parent / "lib"
# Where `make peers` puts the headers of the library's version.
HEADERS = Path(sys.prefix) / "headers"
INCLUDES = ("", "openfhe", "openfhe/core", "openfhe/pke", "openfhe/binfhe", "openfhe/third-party/include")

DRIVER = r"""
#include <sys/resource.h>
#include <chrono>
#include <ctime>
#include <map>
#include <sstream>
#include "mlp.h"
#include "openfhe/pke/ciphertext-ser.h"
#include "openfhe/pke/cryptocontext-ser.h"
#include "openfhe/pke/key/key-ser.h"
#include "openfhe/pke/scheme/ckksrns/ckksrns-ser.h"

std::map<std::string, std::pair<double, double>> seconds;
template <typename F> auto stage(const std::string& name, F work) {
  auto wall = std::chrono::steady_clock::now();
  auto cpu = std::clock();
  auto found = work();
  seconds[name].first += std::chrono::duration<double>(std::chrono::steady_clock::now() - wall).count();
  seconds[name].second += double(std::clock() - cpu) / CLOCKS_PER_SEC;
  return found;
}
template <typename T> size_t bytes(const T& value) {
  std::stringstream out;
  Serial::Serialize(value, out, SerType::BINARY);
  return out.str().size();
}

int main(int, char** given) {
  const size_t count = std::atoi(given[2]), features = std::atoi(given[3]);
  std::ifstream file(given[1], std::ios::binary);
  auto cc = stage("keys", [] { return mlp__generate_crypto_context(); });
  auto keys = stage("keys", [&] { return cc->KeyGen(); });
  cc = stage("keys", [&] { return mlp__configure_crypto_context(cc, keys.secretKey); });
  auto weights = stage("keys", [&] { return mlp__preprocessing(cc); });
  auto zeros = stage("keys", [&] { return mlp__encrypt__zeros(cc, keys.publicKey); });
  size_t up = 0, down = 0;
  for (size_t n = 0; n < count; ++n) {
    std::vector<float> x(features);
    file.read(reinterpret_cast<char*>(x.data()), features * sizeof(float));
    auto in = stage("encrypt", [&] { return mlp__encrypt__arg0(cc, x, keys.publicKey); });
    auto out = stage("evaluate", [&] { return mlp__preprocessed(cc, in, zeros, weights); });
    for (auto& c : in) up += bytes(c);
    for (auto& c : out) down += bytes(c);
    auto scores = stage("decrypt", [&] { return mlp__decrypt__result0(cc, out, keys.secretKey); });
    std::cout << "scores";
    for (float s : scores) std::cout << ' ' << s;
    std::cout << '\n';
  }
  std::stringstream evaluation;
  cc->SerializeEvalMultKey(evaluation, SerType::BINARY);
  cc->SerializeEvalAutomorphismKey(evaluation, SerType::BINARY);
  auto parameters = std::dynamic_pointer_cast<CryptoParametersCKKSRNS>(cc->GetCryptoParameters());
  auto bits = parameters->GetParamsQP()->GetModulus().GetMSB();
  rusage used;
  getrusage(RUSAGE_SELF, &used);
  std::cout << "{\"ring\": " << cc->GetRingDimension() << ", \"bits\": " << bits;
  std::cout << ", \"keys\": " << evaluation.str().size() << ", \"up\": " << up << ", \"down\": " << down;
  std::cout << ", \"memory\": " << used.ru_maxrss * 1024L << ", \"seconds\": {";
  const char* comma = "";
  for (auto& [name, both] : seconds) {
    std::cout << comma << '"' << name << "\": [" << both.first << ", " << both.second << ']';
    comma = ", ";
  }
  std::cout << "}}" << std::endl;
}
"""


# HEIR's approximation of ReLU on -1..1, read off its results to 1e-6; on -B..B it is B times that of x / B.
RELU = (0.0697219, 0.5, 0.487925)


def own_relu(values: np.ndarray) -> list[float]:
    """Coefficients of what HEIR makes of a ReLU on the range, of whole numbers, where it is nearest at these values."""
    ranges = range(1, int(np.ceil(np.abs(values).max())) + 1)
    offers = [[RELU[0] * reach, RELU[1], RELU[2] / reach] for reach in ranges]
    wanted = np.maximum(values, 0)
    return min(offers, key=lambda p: float(np.mean((np.polynomial.Polynomial(p)(values) - wanted) ** 2)))


def dense(values: np.ndarray) -> str:
    return f'dense<"0x{np.ascontiguousarray(values, dtype=np.float32).tobytes().hex().upper()}">'


def mlir(layers: list[tuple[np.ndarray, np.ndarray]], polynomials: list[list[float]]) -> str:
    """The network as HEIR reads it, which replaces each ReLU on the range that it is given."""
    first, last = layers[0][0].shape[1], len(layers[-1][1])
    lines = [f"func.func @mlp(%x: tensor<{first}xf32> {{secret.secret}}) -> tensor<{last}xf32> {{"]
    value = "%x"
    for n, (weights, bias) in enumerate(layers):
        rows, columns = weights.shape
        matrix, vector = f"tensor<{rows}x{columns}xf32>", f"tensor<{rows}xf32>"
        lines += [
            f"%w{n} = arith.constant {dense(weights)} : {matrix}",
            f"%b{n} = arith.constant {dense(bias)} : {vector}",
            f"%m{n} = linalg.matvec ins(%w{n}, {value} : {matrix}, tensor<{columns}xf32>) outs(%b{n} : {vector}) "
            f"-> {vector}",
        ]
        value = f"%m{n}"
        if n < len(polynomials):
            reach = round(polynomials[n][0] / RELU[0])
            bounds = f"degree = 2 : i32, domain_lower = -{reach}.0 : f64, domain_upper = {reach}.0 : f64"
            lines += [
                f"%z{n} = arith.constant dense<0.0> : {vector}",
                f"%s{n} = arith.maximumf {value}, %z{n} {{{bounds}}} : {vector}",
            ]
            value = f"%s{n}"
    return "\n".join(
        ["module attributes {backend.openfhe} {", *lines, f"return {value} : tensor<{last}xf32>", "}", "}"]
    )


def compiled(folder: Path, program: str) -> Path:
    """An executable: HEIR, then the C++ compiler."""
    (folder / "mlp.mlir").write_text(program)
    (folder / "driver.cpp").write_text(DRIVER)

    def run(*command: object) -> None:
        subprocess.run([str(c) for c in command], check=True, cwd=folder)

    run(
        TOOLS / "heir-opt",
        f"--torch-linalg-to-ckks=min-slot-count={SLOTS}",
        "--scheme-to-openfhe",
        "mlp.mlir",
        "-o",
        "mlp.out",
    )
    for kind, name in (("openfhe-pke", "mlp.cpp"), ("openfhe-pke-header", "mlp.h")):
        run(
            TOOLS / "heir-translate", f"--emit-{kind}", "--openfhe-include-type=install-relative", "mlp.out", "-o", name
        )
    flags = ["-O2", "-std=c++17", "-fopenmp", f"-DOPENFHE_VERSION={version('openfhe')}", "-w"]
    flags += [f"-I{HEADERS / path}" for path in INCLUDES]
    libraries = [*sorted(LIBRARY.glob("libOPENFHE*.so*")), f"-L{LIBRARY}"]
    run(os.environ.get("CXX", "g++"), *flags, "driver.cpp", "mlp.cpp", *libraries, "-o", "mlp")
    return folder / "mlp"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("case", type=Path)
    parser.add_argument("--samples", type=int, default=4)
    arguments = parser.parse_args()
    case = Case(arguments.case, own_relu)
    versions = {"heir_py": version("heir_py"), "openfhe": version("openfhe")}
    found = Measured("HEIR", case.words, versions, samples=arguments.samples, tested=len(case.labels))
    samples = case.x[: arguments.samples].astype(np.float32)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        before = os.times()
        with found.stage("compile"):
            program = compiled(folder, mlir(case.layers, case.polynomials))
        after = os.times()
        # compilers are processes of their own
        found.cpu["compile"] += after.children_user + after.children_system
        found.cpu["compile"] -= before.children_user + before.children_system
        samples.tofile(folder / "samples")
        command = [program, folder / "samples", len(samples), samples.shape[1]]
        here = os.environ | {"LD_LIBRARY_PATH": os.fspath(LIBRARY)}
        done = subprocess.run([str(c) for c in command], check=True, stdout=subprocess.PIPE, text=True, env=here)
    lines = done.stdout.splitlines()
    about = json.loads(lines[-1])
    for name, (wall, cpu) in about["seconds"].items():
        found.wall[name], found.cpu[name] = wall, cpu
    scores = np.array([line.split()[1:] for line in lines if line.startswith("scores")], dtype=np.float64)
    found.security = f"ring {about['ring']:,}, log QP {about['bits']}, as HEIR chose them for 128 bits"
    found.key_bytes, found.input_bytes, found.output_bytes = about["keys"], about["up"], about["down"]
    case.judge(found, scores)
    found.print(about["memory"])


if __name__ == "__main__":
    main()
