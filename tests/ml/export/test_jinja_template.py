import jinja2

from ml.export.jinja_template import CHAT_TEMPLATE

TEMPLATE = jinja2.Environment(autoescape=False, trim_blocks=True, lstrip_blocks=True).from_string(CHAT_TEMPLATE)


def render(*messages: tuple[str, str], opening: bool = True) -> str:
    parts = [{"role": role, "content": content} for role, content in messages]
    return TEMPLATE.render(messages=parts, add_generation_prompt=opening)


def test_a_question_opens_an_answer() -> None:
    text = render(("user", "Dart는?\n"))
    assert text == "<|endoftext|>[QUESTION]\nDart는?\n\n[/QUESTION]\n[ANSWER]\n"


def test_instructions_stand_before_the_question_that_follows() -> None:
    text = render(
        ("system", "짧게"), ("developer", "한국어로"), ("user", "왜?"), ("assistant", "그냥"), ("user", "응?")
    )
    first = "<|endoftext|>[QUESTION]\n짧게\n\n한국어로\n\n왜?\n[/QUESTION]\n[ANSWER]\n그냥\n[/ANSWER]"
    assert text == first + "<|endoftext|>[QUESTION]\n응?\n[/QUESTION]\n[ANSWER]\n"


def test_a_whole_talk_ends_with_its_answer() -> None:
    assert render(("user", "a"), ("assistant", "b"), opening=False).endswith("[ANSWER]\nb\n[/ANSWER]")
