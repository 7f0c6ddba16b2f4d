"""Renders chat templates with python jinja2 as Hugging Face does: the judge of tokenizer/jinja.

Written from the documented settings: an immutable sandbox, trim_blocks, lstrip_blocks, loop controls, json.dumps behind
tojson, raise_exception, strftime_now, and {% generation %} blocks that render their body.
"""
import datetime
import json

import jinja2
import jinja2.ext
import jinja2.sandbox

# Noon UTC on 2026-11-22: the same day in nearly every time zone.
NOW = 1795348800


class Generation(jinja2.ext.Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_render"), [], [], body).set_lineno(line)

    def _render(self, caller):
        return caller()


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def strftime_now(fmt):
    return datetime.datetime.fromtimestamp(NOW, datetime.timezone.utc).strftime(fmt)


def environment():
    env = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = strftime_now
    return env


def render(template, context):
    return environment().from_string(template).render(**context)
