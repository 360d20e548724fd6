"""Parts under names: encoders, predictors, losses and datasets, one's own beside the built-in ones."""

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from memdpc.base.errors import ConfigError

T = TypeVar("T")


class Registry(Generic[T]):
    """Values under names; `kind` says in messages what they are ("encoder")."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._values: dict[str, T] = {}

    def register(self, name: str, value: T | None = None) -> Callable[[T], T] | T:
        """Put `value` under `name`; without a value, a decorator. `ConfigError` for a taken name."""
        if value is None:
            return lambda given: self._add(name, given)
        return self._add(name, value)

    def _add(self, name: str, value: T) -> T:
        # The same module may be imported again under another name: what looks the same is the same.
        taken = self._values.get(name, value)
        if getattr(taken, "__qualname__", taken) != getattr(value, "__qualname__", value):
            raise ConfigError(f"{self.kind} {name!r} is registered already: choose another name")
        self._values[name] = value
        return value

    def __getitem__(self, name: str) -> T:
        if name not in self._values:
            known = ", ".join(self._values)
            own = "names of your own come with --plugin"
            raise ConfigError(f"no {self.kind} {name!r}: choose one of {known}; {own}")
        return self._values[name]

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def names(self) -> tuple[str, ...]:
        """The names, in the order in which they were registered."""
        return tuple(self._values)
