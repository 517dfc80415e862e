"""How objects show themselves at a prompt and in a notebook."""

from html import escape


class Displayed:
    """Shows what `summary` says: in one line, and as a table in a notebook."""

    __slots__ = ()

    def summary(self) -> dict[str, object]:
        """What a person wants to know, by name."""
        raise NotImplementedError

    def __repr__(self) -> str:
        parts = (f"{name}={value}" for name, value in self.summary().items())
        return f"{type(self).__name__}({', '.join(parts)})"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>"
            for name, value in self.summary().items()
        )
        return f"<table><caption>{escape(type(self).__name__)}</caption>{rows}</table>"
