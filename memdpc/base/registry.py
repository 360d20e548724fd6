"""Parts under names: encoders, predictors, losses and datasets, yours beside the built-in ones."""

from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar, overload

from memdpc.base.errors import ConfigError

T = TypeVar("T")


class Registry(Generic[T]):
    """Values under names; `kind` says in messages what they are ("encoder")."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._values: dict[str, T] = {}

    @overload
    def register(self, name: str) -> Callable[[T], T]: ...
    @overload
    def register(self, name: str, value: T) -> T: ...
    def register(self, name: str, value: T | None = None) -> T | Callable[[T], T]:
        """Register `value` under `name`, and return it; without a value, a decorator.

        Raises `ConfigError` for a name that something else has. A notebook's cell may be run
        again, and a module imported under two names: what was written in one place counts as one.
        """
        if value is None:
            return lambda decorated: self.register(name, decorated)
        if name in self._values and _origin(self._values[name]) != _origin(value):
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


def _origin(value: Any) -> Any:
    """Where a function or class was written; a tuple's items each; any other value itself."""
    if isinstance(value, tuple):
        return tuple(_origin(item) for item in value)
    return getattr(value, "__qualname__", value)


__all__ = ["Registry"]
