"""One behaviour for every framework: what each adapter is asked, as a suite that needs nothing of ours but this package.

An adapter's tests bring a `Driver`, which turns a script of model turns into the framework's own fake model. `run(driver, "deny", "async")` then
builds the `World` (policy, guard, persons who answer, records, spans, bodies that leave a trace), plays the script and looks at what happened.

    class MyDriver(Driver):
        name = "myframework"
        modes = frozenset({"sync", "async"})
        ...

    @pytest.mark.parametrize(("behaviour", "mode"), cases())
    def test_behaviour(behaviour, mode): run(MyDriver(), behaviour, mode)

| module       | what it holds                                                                                      |
|--------------|----------------------------------------------------------------------------------------------------|
| `script`     | what the model says (`Call`, turns), what comes of it (`Trace`)                                     |
| `driver`     | what a framework's driver is asked for                                                              |
| `world`      | the policy, the tools and their bodies, the guard and everything around it                          |
| `behaviours` | the table of behaviours: `BEHAVIOURS[name].why` is a line of the support matrix                     |
"""

from guard.testing.conformance.behaviours import BEHAVIOURS, Behaviour, cases, gap, run
from guard.testing.conformance.driver import Driver, Mode
from guard.testing.conformance.script import Answer, Call, Delegate, Script, Trace
from guard.testing.conformance.stage import MODES
from guard.testing.conformance.world import Ran, World

__all__ = [
    "BEHAVIOURS",
    "MODES",
    "Answer",
    "Behaviour",
    "Call",
    "Delegate",
    "Driver",
    "Mode",
    "Ran",
    "Script",
    "Trace",
    "World",
    "cases",
    "gap",
    "run",
]
