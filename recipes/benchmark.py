"""Benchmark: this project's path and the plain one, side by side in one run, on the same model and utterances.

Plain scoring is transformers' generate(max_new_tokens=32), and one forward pass over prompt and answer for each label;
plain training is transformers' Trainer with a LoRA of peft. Both pad each clip to the window of the audio tower and
keep nothing between epochs. The weights are random, which does not change the time.

Example:
  python recipes/benchmark.py --config recipes/benchmarks/cpu.yaml only=[scoring] repeats=3
  make gpu WHEELS=wheels        every comparison of recipes/benchmarks/gpu_7b.yaml, then the tests that need a GPU

Results are written as JSON after each comparison, and printed as a table; docs/benchmark.md explains each number.
"""

from lalm_mer.core.paths import as_recorded
from lalm_mer.launch.arguments import run_recipe
from lalm_mer.launch.config.benchmark import BenchmarkSettings


def benchmark(settings: BenchmarkSettings) -> None:
    """Run the comparisons in this process."""
    # imported here, so that --help and errors in the config do not wait for torch
    from lalm_mer.launch.benchmark.report import run_comparisons, table

    print("\n".join(table(run_comparisons(settings))))
    print(f"written: {as_recorded(settings.output.file)}")


def benchmark_in_steps(settings: BenchmarkSettings) -> None:
    """Run each comparison in a process of its own, with a time limit, then the tests."""
    from lalm_mer.launch.benchmark.steps import run_steps

    run_steps(settings)


if __name__ == "__main__":
    steps = {
        "--steps": (benchmark_in_steps, "each comparison in its own process, with its own time limit, then the tests")
    }
    run_recipe(__doc__, BenchmarkSettings, benchmark, steps)
