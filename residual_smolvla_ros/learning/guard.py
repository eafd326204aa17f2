"""Whether a residual does worse than the base alone."""

# Two-sided 95 %: chance alone calls an equal residual worse in at most 2.5 % of validations.
ALPHA = 0.025


def is_worse(successes: int, episodes: int, base_successes: int, base_episodes: int) -> bool:
    """Tell whether success is below the base's with 95 % confidence (Fisher's exact test)."""
    # Only now: it takes a second to import, and every node imports the schedule.
    from scipy.stats import fisher_exact

    table = [
        [successes, episodes - successes],
        [base_successes, base_episodes - base_successes],
    ]
    return bool(fisher_exact(table, alternative="less").pvalue < ALPHA)
