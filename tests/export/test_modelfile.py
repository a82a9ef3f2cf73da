"""The Go template for Ollama. Python has no Go: what it renders is checked with `go run` where there is a Go."""

import json
import re
import shutil
import subprocess

import pytest
from llama_cpp.llama_chat_format import Jinja2ChatFormatter
from tiny_tokenizer import CHAT_TEMPLATE

from export import modelfile
from export.template import NO_THINKING, dial_template
from lite.errors import LiteError
from lite.tokens import INSTRUCTION, POLICY_TOKEN, RATIO_TOKENS

USER, BOT, END = "<|im_start|>user\n", "<|im_start|>assistant\n", "<|im_end|>\n"
WITH_DEFAULT = (
    "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}"
    + CHAT_TEMPLATE
)
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}" + CHAT_TEMPLATE


def frame(template: str, bos: str = "") -> modelfile.Frame:
    return modelfile.frame(modelfile.renderer(template, bos, "<|im_end|>"))


def test_a_template_is_taken_apart():
    parts = frame(CHAT_TEMPLATE)
    assert parts == modelfile.Frame(
        "<|im_start|>system\n", USER, END + USER, END + BOT, END + USER, END + BOT
    )
    assert frame(WITH_DEFAULT).first_user == "<|im_start|>system\nBe kind.<|im_end|>\n" + USER
    assert frame(WITH_DEFAULT).before_system == "<|im_start|>system\n"
    assert frame("{{ bos_token }}" + CHAT_TEMPLATE, "<s>") == parts  # Ollama puts BOS there itself
    assert (frame(NO_SYSTEM).before_system, frame(NO_SYSTEM).system_to_user) == (USER, "\n\n")


def test_what_shows_no_chat_is_refused():
    with pytest.raises(LiteError, match="does not show a chat of user, assistant, user"):
        frame("{{ messages[0].content }}")
    with pytest.raises(LiteError, match="fails on a chat of user, assistant, user"):
        frame("{{ raise_exception('no') }}")


def test_the_control_token_is_last_in_the_user_turn_and_a_presets_mirror_is_given():
    fixed, free = (modelfile.go_template(frame(CHAT_TEMPLATE), mode) for mode in ("0.2", "policy"))
    assert re.search(r'\{\{ \.Content \}\}\{\{ " <COMP_20>" \}\}', fixed) and fixed.count("<COMP_20>") == 2
    assert free.count(POLICY_TOKEN) == 1
    assert '"""' not in fixed  # which would end the TEMPLATE
    assert len(re.findall(r"\{\{-? (?:if|range)\b", fixed)) == len(re.findall(r"\{\{- end \}\}", fixed))


RENDER = """package main
import ("encoding/json"; "os"; "text/template")
type Message struct { Role, Content, Thinking string }
func main() {
    var chats []struct { System string; Messages []*Message; Think, IsThinkSet bool }
    json.NewDecoder(os.Stdin).Decode(&chats)
    made := template.Must(template.ParseFiles(os.Args[1]))
    for _, chat := range chats {
        made.Execute(os.Stdout, map[string]any{"System": chat.System, "Messages": chat.Messages,
            "Think": chat.Think, "IsThinkSet": chat.IsThinkSet})
        os.Stdout.WriteString("\\x00")
    }
}
"""


@pytest.mark.skipif(not shutil.which("go"), reason="needs Go")
def test_go_renders_what_jinja_does(tmp_path):
    """The dial's own template is the reference, chat by chat."""

    def said(role, content):
        return {"role": role, "content": content}

    chats = [
        [said("user", 'one "two"\n {{ x }}')],
        [said("system", "Be brief."), said("user", "one")],
        [said("user", "one"), said("assistant", "two"), said("user", "three")],
    ]
    (tmp_path / "main.go").write_text(RENDER)
    for template in (CHAT_TEMPLATE, WITH_DEFAULT):
        (tmp_path / "t").write_text(modelfile.go_template(frame(template), "0.2"))
        asked = [
            {
                "System": "".join(each["content"] for each in chat if each["role"] == "system"),
                "Messages": [{key.title(): text for key, text in each.items()} for each in chat],
                "IsThinkSet": off,
            }
            for chat in chats
            for off in (False, True)
        ]
        command = ["go", "run", str(tmp_path / "main.go"), str(tmp_path / "t")]
        done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, check=True)
        replies = done.stdout.split("\0")
        for place, chat in enumerate(chats):
            text = Jinja2ChatFormatter(dial_template(template), "<|im_end|>", "")(
                messages=chat, comp_ratio=20
            ).prompt
            assert INSTRUCTION in text
            assert replies[2 * place : 2 * place + 2] == [text + RATIO_TOKENS[0] + "\n", text + NO_THINKING]
