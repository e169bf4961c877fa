"""What a build says: phases inside phases, their share, and the time that is left."""

from ntre_deploy.plans.progress import Phases


def test_a_phase_inside_another_spends_one_of_its_steps() -> None:
    now, lines = [0.0], list[str]()
    phases = Phases("building query", lines.append, lambda: now[0])
    phases.start("Building engine", 4)
    assert lines == ["building query: Building engine, 0%"]
    phases.step("Building engine", 0)
    phases.step("Building engine", 1)
    phases.start("Timing tactics", 2)
    assert phases.share() == 0.5
    now[0] = 30.0
    phases.step("Timing tactics", 0)
    assert phases.share() == 0.625
    assert lines[-1] == "building query: Timing tactics, 62%, about 18 s left"
    phases.finish("Timing tactics")
    phases.step("Building engine", 2)
    assert phases.share() == 0.75
    assert phases.remaining() == 10.0


def test_steps_of_phases_that_are_not_open_and_too_many_of_them_do_no_harm() -> None:
    phases = Phases("x", lambda line: None)
    phases.step("unknown", 3)
    phases.finish("unknown")
    assert phases.share() == 0.0
    assert phases.remaining() is None
    phases.start("a", 0)
    phases.step("a", 7)
    assert phases.share() == 1.0
