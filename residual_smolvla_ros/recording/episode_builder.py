"""Put a session's messages together to episodes of control steps: from a bag, or as they come."""

from dataclasses import dataclass, field

import numpy as np

from residual_smolvla_ros.errors import BagError
from residual_smolvla_ros.learning.schedule import EpisodePlan
from residual_smolvla_ros.recording import cdr
from residual_smolvla_ros.recording.episodes import (
    COMPRESSED,
    RAW,
    Layout,
    RecordedEpisode,
    RecordedStep,
    StoredImage,
    to_nanoseconds,
)
from residual_smolvla_ros.records import (
    DISCARD,
    EPISODE_EVENT,
    REWARD,
    STEP,
    SUCCESS,
    Record,
    RecordError,
    unpack,
)
from residual_smolvla_ros.robots.units import rad_to_lerobot

# States and images also come between episodes; so many are kept: 10 s at 30 Hz, for a first plan.
KEPT = 300


@dataclass
class _Draft:
    plan: EpisodePlan | None = None
    steps: dict[int, Record] = field(default_factory=dict)
    task: str = ""
    end: Record | None = None
    label: str = ""
    judged: bool = False  # a person's label, which the last step's reward is replaced for

    @property
    def is_empty(self) -> bool:
        """Whether the episode was stopped before its first step."""
        return self.end is not None and not self.end.metadata["steps"]


class EpisodeBuilder:
    """Join a session's messages by their stamps; topics may overtake each other.

    `take` returns the episodes that a message completes. `left_out` tells of each episode that is
    not handed out why, `discarded` counts those that a person discarded.
    """

    def __init__(self, layout: Layout):
        self.layout = layout
        self.left_out: list[str] = []
        self.discarded = 0
        self._task = layout.task
        self._drafts: dict[int, _Draft] = {}
        self._closed = 0
        self._states: dict[int, np.ndarray] = {}
        self._executed: dict[int, np.ndarray] = {}
        self._rewards: dict[int, Record] = {}
        self._images: dict[str, dict[int, StoredImage]] = {name: {} for name in layout.cameras}
        sources = ["policy/step", "reward", "joint_states", *layout.cameras]
        sources += ["executed_command"] if layout.executed else []
        self._newest = dict.fromkeys(sources, 0)  # stamps in ns
        self._takers = {
            "task": self._take_task,
            "episode/event": self._take_event,
            "policy/step": self._take_step,
            "reward": self._take_reward,
            "joint_states": self._take_state,
        }
        if layout.executed:
            self._takers["executed_command"] = self._take_executed

    def take(self, topic: str, kind: str, data: bytes) -> list[RecordedEpisode]:
        """Take a message (CDR) of a topic by its relative name; others than ours are ignored.

        Raises BagError where it is not what the topic carries.
        """
        camera = topic.rpartition(f"/{COMPRESSED}")[0] or topic.rpartition(f"/{RAW}")[0]
        try:
            if camera in self._images:
                self._take_image(camera, kind, data)
            elif topic in self._takers:
                self._takers[topic](cdr.decode(kind, data))
            else:
                return []
        except (RecordError, BagError) as error:
            raise BagError(f"{topic}: {error}") from None
        return self._pop(last=False)

    def finish(self) -> list[RecordedEpisode]:
        """Return the episodes that only waited for images that the session's end left out."""
        return self._pop(last=True)

    # -- what comes in ----------------------------------------------------------------------

    def _take_task(self, message) -> None:
        self._task = message.data

    def _take_event(self, message) -> None:
        record = unpack(EPISODE_EVENT, message.data)
        event, label = record.metadata["event"], record.metadata["label"]
        draft = self._draft(record.metadata["episode"])
        if draft is None:
            return
        if event == "prepare":
            draft.plan = EpisodePlan.from_json(record.metadata["plan"])
        elif event == "end":
            draft.plan = EpisodePlan.from_json(record.metadata["plan"])
            draft.end, draft.label = record, label or draft.label
        elif event == "label":
            draft.label, draft.judged = label, label != DISCARD

    def _take_step(self, message) -> None:
        record = unpack(STEP, message.data)
        draft = self._draft(record.metadata["episode"])
        if draft is None or record.metadata["final"]:
            return
        if not draft.steps:
            draft.task = self._task
        stamp = record.metadata["stamp"]
        draft.steps.setdefault(stamp, record)
        self._note("policy/step", stamp)

    def _take_reward(self, message) -> None:
        record = unpack(REWARD, message.data)
        stamp = record.metadata["stamp"]
        if record.metadata["label"] or stamp not in self._rewards:
            self._keep("reward", self._rewards, stamp, record)

    def _take_state(self, message) -> None:
        stamp = to_nanoseconds(message.header)
        self._keep("joint_states", self._states, stamp, self._joints(message))

    def _take_executed(self, message) -> None:
        stamp = to_nanoseconds(message.header)
        self._keep("executed_command", self._executed, stamp, self._joints(message))

    def _take_image(self, camera: str, kind: str, data: bytes) -> None:
        stamp = to_nanoseconds(cdr.decode(kind, data).header)
        self._keep(camera, self._images[camera], stamp, StoredImage(kind, data, stamp))

    def _joints(self, message) -> np.ndarray:
        found = dict(zip(message.name, message.position, strict=False))
        names = self.layout.topic_names
        if not found.keys() >= set(names):
            raise BagError(f"expected joints {list(names)}, found {list(found)}")
        position = np.array([found[name] for name in names])
        with np.errstate(over="ignore"):
            taken = rad_to_lerobot(position, self.layout.joint_names).astype(np.float32)
        if not np.isfinite(taken).all():
            raise BagError(f"expected finite positions, found {position.tolist()}")
        return taken

    def _draft(self, episode: int) -> _Draft | None:
        return self._drafts.setdefault(episode, _Draft()) if episode > self._closed else None

    def _note(self, source: str, stamp: int) -> None:
        self._newest[source] = max(self._newest[source], stamp)

    def _keep(self, source: str, store: dict, stamp: int, value) -> None:
        store[stamp] = value
        self._note(source, stamp)
        # A scene may take an hour to be set.
        if len(store) > KEPT and not any(draft.steps for draft in self._drafts.values()):
            del store[next(iter(store))]

    # -- what goes out ----------------------------------------------------------------------

    def _pop(self, last: bool) -> list[RecordedEpisode]:
        done = []
        while self._drafts:
            episode = min(self._drafts)
            draft = self._drafts[episode]
            # What an episode lacks when a later one has come will not come any more.
            have_come = last or any(self._has_come(d) for d in self._drafts.values())
            if not have_come and not draft.is_empty:
                break
            del self._drafts[episode]
            self._closed = episode
            if made := self._close(episode, draft):
                done.append(made)
            self._forget(draft)
        return done

    def _has_come(self, draft: _Draft) -> bool:
        """Tell whether each topic is past the episode's last step, so that nothing is on its way.

        Each topic keeps its order; images of the step itself may be missing, but not later ones.
        """
        if draft.end is None or not draft.label or draft.is_empty:
            return False
        if draft.judged and not self._is_judged(draft):
            return False
        stamp = draft.end.metadata["last_stamp"]
        return all(newest >= stamp for newest in self._newest.values())

    def _is_judged(self, draft: _Draft) -> bool:
        reward = self._rewards.get(draft.end.metadata["last_stamp"])
        return reward is not None and reward.metadata["label"] == draft.label

    def _lacks(self, draft: _Draft) -> str:
        """Return what the episode's records lack, "" if nothing."""
        stamps = self._played(draft)
        expected = draft.end.metadata["steps"]
        if len(stamps) != expected:
            return f"policy/step (expected {expected}, found {len(stamps)})"
        stores = {"joint_states": self._states, "reward": self._rewards}
        if self.layout.executed:
            stores["executed_command"] = self._executed
        for topic, store in stores.items():
            if missing := sum(stamp not in store for stamp in stamps):
                return f"{topic} of {missing} of {expected} steps"
        return "the reward of its label" if draft.judged and not self._is_judged(draft) else ""

    def _played(self, draft: _Draft) -> list[int]:
        return sorted(s for s in draft.steps if s <= draft.end.metadata["last_stamp"])

    def _close(self, episode: int, draft: _Draft) -> RecordedEpisode | None:
        if draft.end is None:
            if draft.steps:
                self.left_out.append(f"episode {episode}: it has no end")
            return None
        if draft.label == DISCARD or draft.is_empty:
            self.discarded += 1
            return None
        lacks = "a label" if not draft.label else self._lacks(draft)
        if lacks:
            self.left_out.append(f"episode {episode}: it lacks {lacks}")
            return None
        steps, age = [], 0
        for stamp in self._played(draft):
            images = self._images_at(stamp)
            for camera, image in images.items():
                if image is None:
                    self.left_out.append(f"episode {episode}: it lacks images of {camera}")
                    return None
                age = max(age, stamp - image.stamp)
            steps.append(self._step(draft.steps[stamp], images))
        success = draft.label == SUCCESS
        return RecordedEpisode(draft.plan, success, draft.task, tuple(steps), age)

    def _step(self, record: Record, images: dict[str, StoredImage]) -> RecordedStep:
        stamp = record.metadata["stamp"]
        reward = self._rewards[stamp]
        return RecordedStep(
            record=record,
            state=self._states[stamp],
            action=self._executed[stamp] if self.layout.executed else record["command"],
            reward=float(reward["reward"]),
            success=reward.metadata["success"],
            images=images,
        )

    def _images_at(self, stamp: int) -> dict[str, StoredImage | None]:
        found = {}
        for camera, images in self._images.items():
            before = [s for s in images if s <= stamp]
            found[camera] = images[max(before)] if before else None
        return found

    def _forget(self, draft: _Draft) -> None:
        last = max(draft.steps, default=0)
        stores = [self._states, self._executed, self._rewards, *self._images.values()]
        for store in stores:
            for stamp in [s for s in store if s <= last]:
                del store[stamp]
