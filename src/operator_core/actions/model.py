"""The base class of the ledger's models."""

from typing import Any, ClassVar, Final, Self

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from operator_core.actions.errors import InvalidValue
from operator_core.actions.values import format_path, join_paths

__all__ = ["KEPT", "Model", "to_invalid_value"]

KEPT: Final = "kept by the ledger"
"""Marks a field that only the ledger sets."""


class Model(BaseModel):
    """A frozen, strict model; a value that the ledger can't store raises `InvalidValue` with its path."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        use_attribute_docstrings=False,
        validate_default=False,
    )

    # One set for all stored instances of a class: a set for each costs a fifth of reading a row, most of it in
    # garbage collections. Pydantic copies it before it changes it, and callers get a copy.
    _all_fields: ClassVar[set[str]]

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        cls._all_fields = set(cls.model_fields)

    def __init__(self, **data: Any) -> None:
        try:
            super().__init__(**data)
        except ValidationError as error:
            raise to_invalid_value(error) from None

    # Allows pydantic its own, faster way to create an instance inside the validation of another model, such as
    # FastAPI's, where callers expect a ValidationError.
    __init__.__pydantic_base_init__ = True  # pyright: ignore[reportFunctionMemberAccess]

    @property
    def model_fields_set(self) -> set[str]:
        """The names of the fields that were set when the model was made."""
        return set(self.__pydantic_fields_set__)

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Self:
        """Same as pydantic's method, but raises `InvalidValue`."""
        try:
            return super().model_validate(obj, **options)
        except ValidationError as error:
            raise to_invalid_value(error) from None

    @classmethod
    def model_validate_json(cls, json_data: str | bytes | bytearray, **options: Any) -> Self:
        """Same as pydantic's method, but raises `InvalidValue`."""
        try:
            return super().model_validate_json(json_data, **options)
        except ValidationError as error:
            raise to_invalid_value(error) from None

    @classmethod
    def from_stored(cls, values: dict[str, Any]) -> Self:
        """Returns an instance without validation; `values` must hold every field, in its type.

        The limits for input do not apply to stored values, and validating each field of each row would cost
        more than reading the row. The effect is that of pydantic's ``model_construct`` with all fields set, in a
        fifth of the time.
        """
        model = cls.__new__(cls)
        put = object.__setattr__
        put(model, "__dict__", values)
        put(model, "__pydantic_fields_set__", cls._all_fields)
        put(model, "__pydantic_extra__", None)
        put(model, "__pydantic_private__", None)
        return model


def to_invalid_value(error: ValidationError, at: str = "") -> InvalidValue:
    """Converts pydantic's `error` about the value at the path `at`; the result contains no values."""
    problems = [_problem(details) for details in error.errors(include_url=False)]
    problems = [(join_paths(at, path), problem) for path, problem in problems]
    path, problem = problems[0]
    return InvalidValue(path, problem, problems=problems)


def _problem(details: ErrorDetails) -> tuple[str, str]:
    path = format_path(details["loc"])
    cause = details.get("ctx", {}).get("error")
    if isinstance(cause, InvalidValue):
        return join_paths(path, cause.path), cause.problem
    if details["type"] == "string_pattern_mismatch":
        return path, "must not be blank and must not contain a NUL character"
    if details["type"] == "string_unicode":
        return path, "must not contain a lone surrogate"
    return path, details["msg"]
