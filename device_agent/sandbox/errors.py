"""How a call into a module ends, beside traps."""

from ota.errors import OtaError

__all__ = ["ContractError", "Exited", "ModuleError", "StateRefusedError"]


class ContractError(OtaError):
    """The module broke the contract: a pointer outside its memory, text that is not UTF-8, a wrong type. As bad as a trap."""


class ModuleError(OtaError):
    """The module answered with an error; its text is the module's own."""


class StateRefusedError(ModuleError):
    """It does not take the state of its predecessor."""


class Exited(OtaError):
    """The module called proc_exit, or `exit`, with `code`: of the contract, it has given up; a command has ended."""

    def __init__(self, code: int, function: str = "proc_exit") -> None:
        super().__init__(f"the module called {function}({code})")
        self.code = code
