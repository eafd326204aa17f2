"""The learner with TD3: updates that can be made in pieces, and a replay that outlives a stop."""

from pathlib import Path

from residual_smolvla_ros.errors import ConfigError, DamagedCheckpointError
from residual_smolvla_ros.learning.checkpoint import ResidualCheckpoint, load_checkpoint
from residual_smolvla_ros.learning.learner import Learner
from residual_smolvla_ros.learning.replay import Transitions
from residual_smolvla_ros.learning.replay_files import read_rows, write_rows
from residual_smolvla_ros.learning.rollout import Episode, check_episode
from residual_smolvla_ros.learning.td3 import DEMONSTRATIONS, TD3, TD3Config
from residual_smolvla_ros.policy.features import ResidualConfig

# Beside the numbered checkpoints of a run.
REPLAY = "replay"


class TD3Learner(Learner):
    """TD3 over the residual network, an update every `episodes_per_update` episodes.

    `add_episode` makes an update at once. With `take` and `learn` it is made in pieces, beside the
    episodes that follow. `warmup_updates` train no actor, as those before `actor_starts`.
    """

    algorithm: TD3

    def __init__(
        self,
        residual: ResidualConfig,
        config: TD3Config,
        episodes_per_update: int = 1,
        warmup_updates: int = 0,
        seed: int = 0,
    ):
        super().__init__(residual, config, episodes_per_update, warmup_updates, seed)
        self.demonstrations = ""
        self._due: list[Episode] = []
        self._finished: dict[str, float] | None = None
        self._unsaved: list[tuple[str, Transitions]] = []

    @property
    def taken(self) -> int:
        """Episodes of the run that have been taken, learned from or not yet."""
        return super().taken + len(self._due)

    def add_episode(self, episode: Episode) -> dict[str, float] | None:
        """Take an episode; return the metrics of the update that it completed, if any.

        Raises ValueError, with all as it was, where the episode does not fit or is not finite.
        """
        earlier = self.take(episode)
        return self.learn() or earlier

    def take(self, episode: Episode) -> dict[str, float] | None:
        """Take an episode, for `learn` to learn from; raises as `add_episode` does.

        An update that is under way still is completed first where the episode makes another one
        due, and its metrics are returned.
        """
        check_episode(episode, self.residual.feature_size, self.residual.residual_size)
        self._episodes.append(episode)
        if len(self._episodes) < self.episodes_per_update:
            return None
        earlier = self.learn()
        self._take_changes()
        self._due, self._episodes = self._episodes, []
        self._unsaved += self.algorithm.store(self._due)
        return earlier

    def learn(self, limit: int | None = None) -> dict[str, float] | None:
        """Make gradient steps of the update that is due, at most `limit`.

        Returns the update's metrics once it is complete.
        """
        finished, self._finished = self._finished, None
        if not self._due:
            return finished
        if not self.algorithm.learn(self.counters.version < self.warmup_updates, limit):
            return finished
        episodes, self._due = self._due, []
        return self._update(episodes)

    def change(self, values: dict[str, float]) -> None:
        """Let hyperparameters have other values from the next update on.

        Raises ConfigError, with all as it was, for one that is not taken.
        """
        if values.get("action_scale", self.residual.action_scale) != self.residual.action_scale:
            raise ConfigError(
                f"action_scale: expected {self.residual.action_scale}, in whose units the "
                f"residuals in td3's replay are, found {values['action_scale']}; begin a new run"
            )
        super().change(values)

    def begin(self) -> None:
        """Take what the run of `demonstrations`, if any, kept in its replay as demonstrations.

        Raises CheckpointError where it is not of this configuration, or discounted otherwise.
        """
        if not self.demonstrations:
            return
        checkpoint = load_checkpoint(Path(self.demonstrations).expanduser())
        self._check(checkpoint)
        earlier = read_rows(checkpoint.path.parent / REPLAY, self._discounting())
        rows = [(DEMONSTRATIONS, rows) for _, rows in earlier]
        self.algorithm.keep(rows)
        self._unsaved += rows

    def load(self, checkpoint: ResidualCheckpoint) -> None:
        """Start from a checkpoint's weights, also of another algorithm, as a new run.

        Exploration keeps this run's standard deviation. Raises CheckpointError if the checkpoint's
        features, actions or network differ from this run's.
        """
        super().load(checkpoint)
        self.algorithm.follow_network()

    def save(self, folder: Path, run: dict) -> Path:
        """Write a checkpoint into `folder`; an update that is under way is completed first."""
        self._finished = self.learn()
        if self._unsaved:
            write_rows(folder / REPLAY, self.algorithm.rows, self._unsaved, self._discounting())
            self._unsaved = []
        return super().save(folder, run)

    def resume(self, checkpoint: ResidualCheckpoint) -> None:
        """Go on where the checkpoint's run stopped, to the bit.

        Raises CheckpointError as `load` does, and where the run's algorithm, the size of its
        updates or its critics were others, or a part of the replay is missing.
        """
        wanted = int(checkpoint.training.get("rows", 0))
        folder = checkpoint.path.parent / REPLAY
        kept = read_rows(folder, self._discounting(), wanted)
        found = sum(len(rows) for _, rows in kept)
        if found != wanted:
            raise DamagedCheckpointError(f"replay {folder}: expected {wanted} rows, found {found}")
        super().resume(checkpoint)
        self.algorithm.keep(kept)

    def roll_back(self, checkpoint: ResidualCheckpoint) -> None:
        """Go back to the actor of the accepted version; replay and critics go on."""
        self._finished = self.learn()
        self.algorithm.load_actor(checkpoint.weights, checkpoint.training)
        self.counters.version += 1
        self.counters.rollbacks += 1
        self.accept()

    def _discounting(self) -> dict[str, str]:
        return {name: str(getattr(self.config, name)) for name in ("gamma", "n_step")}
