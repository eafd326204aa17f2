"""A run's result as a table. Without matplotlib and scipy: the starter shows it too."""


def table_rows(summary: dict) -> list[tuple[str, str, str]]:
    """Return name, success and interval of base and base + residual."""
    rows = []
    for key, name in (("base", "base alone"), ("residual", "base + residual")):
        success = summary[f"success_{key}"]
        if success is not None:
            low, high = summary[f"success_{key}_ci95"]
            rows.append((name, f"{success:.3f}", f"{low:.3f} to {high:.3f}"))
    return rows


def format_table(summary: dict) -> str:
    """Return the result as text for a terminal."""
    lines = [""]
    if summary["eval_episodes"]:
        lines += [
            f"  {summary['eval_episodes']} held-out seeds, deterministic   success   95 % interval",
            *(f"  {name:<34}{success:>9}   {interval}" for name, success, interval
              in table_rows(summary)),
            f"  solved by base + residual only: {summary['solved_by_residual_only']}, "
            f"by base alone only: {summary['solved_by_base_only']}",
        ]  # fmt: skip
    if summary["env_steps"]:
        lines.append(
            f"  success while training: {summary['training_successes']} "
            f"of {summary['episodes']} episodes"
        )
        lines.append(
            f"  {summary['env_steps']} control steps in {summary['episodes']} episodes, "
            f"{summary['updates']} updates, {summary['steps_per_s']:.0f} steps/s; "
            f"{summary['wall_s']:.0f} s in all"
        )
    for arm, of in summary.get("arms", {}).items():
        lines.append(
            f"    {arm}: {of['env_steps']} steps in {of['episodes']} episodes, "
            f"{of['training_successes']} successes"
        )
    if summary["helped_episodes"]:
        lines.append(f"  helped by a person: {summary['helped_episodes']} episodes")
    return "\n".join([*lines, ""])
