#include <doctest/doctest.h>

#include <fmt/format.h>

#include <chrono>
#include <map>

#include "src/base/file.h"
#include "src/base/json.h"
#include "tokenizer/jinja.h"
#include "tokenizer/templates.h"

using namespace fathom;
using jinja::Limits;
using jinja::Rendered;
using jinja::Template;
using jinja::Variable;

namespace {

// The variables of a JSON object; `messages` and `tools` count as typed by someone, as in a chat.
std::vector<Variable> variables(const json::Value& context) {
  std::vector<Variable> out;
  for (const auto& [name, value] : context.as_object())
    out.push_back({name, value, name == "messages" || name == "tools"});
  return out;
}

Rendered render(std::string_view source, const std::string& context = "{}", const Limits& limits = {}) {
  return Template(source, "test").render(variables(json::parse(context, "context")), 0, limits);
}

// Code and text of the error that `body` throws.
struct Failure {
  Exit code = Exit::ok;
  std::string text, remedy;
};

Failure failure(auto&& body) {
  try {
    body();
  } catch (const Error& e) {
    return {e.code(), e.what(), e.remedy()};
  }
  return {};
}

// "plain[typed]plain": the origins made visible.
std::string origins(const Rendered& r) {
  std::string out;
  std::size_t begin = 0;
  for (const jinja::Run& run : r.runs) {
    const std::string part = r.text.substr(begin, run.end - begin);
    out += run.message ? "[" + part + "]" : part;
    begin = run.end;
  }
  CHECK(begin == r.text.size());
  return out;
}

bool contains(std::string_view s, std::string_view part) { return s.find(part) != s.npos; }

}  // namespace

TEST_CASE("jinja: every case rendered by python jinja2 comes out byte for byte") {
  const std::string text = read_file("tests/data/jinja_cases.json", 64u << 20);
  const json::Value all = json::parse(text, "jinja_cases.json");
  const auto now = all.find("now")->integer_in(0, INT64_MAX).value();
  const std::vector<Variable> values = variables(*all.find("values"));
  const json::Array& templates = all.find("templates")->as_array();
  int compared = 0;
  for (const json::Value& c : all.find("cases")->as_array()) {
    const std::string& name = c.find("name")->as_string();
    CAPTURE(name);
    std::string source;
    if (const json::Value* s = c.find("source")) source = s->as_string();
    if (const json::Value* b = c.find("builtin")) source = builtin_template(b->as_string()).value();
    if (const json::Value* t = c.find("template"))
      source = templates[t->as_u64().value()].find("source")->as_string();
    const json::Value* context = c.find("context");
    std::string found;
    const Failure f = failure(
        [&] { found = Template(source, "case").render(context ? variables(*context) : values, now).text; });
    const json::Value* output = c.find("output");
    if (output) {
      CHECK_MESSAGE(f.code == Exit::ok, name, ": ", f.text);
      CHECK_MESSAGE(found == output->as_string(), name);
    } else {
      CHECK_MESSAGE((f.code == Exit::unsupported || f.code == Exit::bad_checkpoint || f.code == Exit::usage),
                    name, ": expected an error (", c.find("error")->as_string(), "), found ", found);
    }
    ++compared;
  }
  CHECK(compared > 600);
}

TEST_CASE("jinja: the origin of every byte survives the rendering") {
  const std::string context = R"({"messages":[{"role":"user","content":" a,B c "}],"m":"x"})";
  const auto show = [&](std::string_view source) { return origins(render(source, context)); };
  CHECK(show("U:{{ messages[0].content }}!") == "U:[ a,B c ]!");
  CHECK(show("{{ 'U:' + messages[0]['content'] ~ '!' }}{{ m }}") == "U:[ a,B c ]!x");
  CHECK(show("{{ messages[0].content[2:4] + 'z' }}") == "[,B]z");
  CHECK(show("{{ messages[0].content.strip() }}.") == "[a,B c].");
  CHECK(show("{{ messages[0].content | trim | upper }}") == "[A,B C]");
  CHECK(show("{{ ('<' + messages[0].content.strip() + '>').split(',') | join('|') }}") == "<[a]|[B c]>");
  CHECK(show("{{ messages[0].content.replace('B', '<b>') }}") == "[ a,]<b>[ c ]");
  CHECK(show("{{ messages[0].content.split() | tojson }}") == R"(["[a,B]", "[c]"])");
  CHECK(show("{{ messages | tojson }}") == R"([[{"role": "user", "content": " a,B c "}]])");
  CHECK(show("{{ ('x' ~ messages[0].content.strip()) | reverse }}") == "[c B,a]x");
  CHECK(show("{% set x %}<{{ messages[0].role }}>{% endset %}{{ x * 2 }}") == "<[user]><[user]>");
  CHECK(show("{% macro f(a) %}({{ a }}){% endmacro %}{{ f(messages[0].role) }}") == "([user])");
  CHECK(show("{{ '%s-%s' % (messages[0].role, m) }}{{ '{}'.format(messages[0].role) }}") == "[user]-x[user]");
  CHECK(show("{{ messages[0].role | indent }}{{ messages[0].role.rjust(6) }}") == "[user]  [user]");
  CHECK(
      show("{{ messages[0].role | first }}{{ messages[0].role | list | last }}{{ messages[0].role[-2] }}") ==
      "[ure]");
  CHECK(show("{% for k, v in messages[0].items() %}{{ k }}={{ v | trim }};{% endfor %}") ==
        "[role]=[user];[content]=[a,B c];");
  CHECK(show("{{ messages[0].role.center(8, '*') }}{{ messages[0].role | capitalize }}") ==
        "**[user]**[User]");
}

TEST_CASE("jinja: what is outside the subset is refused by name and line") {
  const auto refused = [](std::string_view source, std::string_view word, int line) {
    const Failure f = failure([&] { render(source); });
    CAPTURE(source);
    CHECK_MESSAGE(f.code == Exit::unsupported, f.text);
    CHECK_MESSAGE(contains(f.text, word), f.text);
    CHECK_MESSAGE(contains(f.text, fmt::format("line {}:", line)), f.text);
    CHECK(contains(f.remedy, "--template"));
  };
  refused("a\n{% include 'x' %}", "include", 2);
  refused("{% extends 'x' %}", "extends", 1);
  refused("\n\n{% import 'x' as y %}", "import", 3);
  refused("{% block b %}{% endblock %}", "block", 1);
  refused("{% autoescape true %}{% endautoescape %}", "autoescape", 1);
  refused("{% trans %}{% endtrans %}", "trans", 1);
  refused("{% for x in [] recursive %}{% endfor %}", "recursive", 1);
  refused("{{ f(*a) }}", "unpacked", 1);
  refused("a\n{{ 'x' | wordwrap }}", "wordwrap", 2);
  refused("a\nb {{ 'x' is escaped }}", "escaped", 2);
  refused("{{ 'x'.encode() }}", "encode", 1);
  refused("{{ lipsum() }}", "lipsum", 1);
  refused("{{ ''.__class__ }}", "__class__", 1);
  refused("{{ 'x'\n.__class__.__mro__ }}", "__class__", 2);
  refused("{{ 99999999999999999999 }}", "64 bits", 1);
}

// Python knows these; the interpreter says that it does not, instead of giving something else.
TEST_CASE("jinja: what the subset leaves out of filters and methods is refused") {
  for (const std::string_view expression : {"'é'.isalpha()",
                                            "'é1'.isdigit()",
                                            "'5' | int(0, 3)",
                                            "'99999999999999999999' | int",
                                            "1e300 | int",
                                            "'1e30' | int",
                                            "-9223372036854775808 | abs",
                                            "'a\\nb' | indent(1001)",
                                            "'a\\nb' | indent(-1)",
                                            "[1] | tojson(indent=101)",
                                            "1.5 | round(301)",
                                            "1.5 | round(-301)",
                                            "9223372036854775807 | round(-1)",
                                            "[{'a': 1}] | sort(attribute='a,b') | list",
                                            "'%x' % 255",
                                            "'%5d' % 5",
                                            "[1, 2][0, 1]",
                                            "dict(**{'a': 1})",
                                            "f(*[1])",
                                            "'\\N{BULLET}'",
                                            "'x'.istitle()",
                                            "[1].copy()",
                                            "{'a': 1}.popitem()",
                                            "strftime_now('%Y' * 200)",
                                            "-(-9223372036854775807 - 1)",
                                            "(-9223372036854775807 - 1) // -1",
                                            "range(0, 5, 0)",
                                            "9223372036854775807 * 2",
                                            "-9223372036854775807 - 2",
                                            "3 ** 50",
                                            "'{:>5}'.format(1)",
                                            "'{0.a}'.format(1)",
                                            "0xFFFFFFFFFFFFFFFFFF"}) {
    const Failure f = failure([&] { render("{{ " + std::string(expression) + " }}"); });
    CAPTURE(std::string(expression));
    CHECK_MESSAGE(f.code == Exit::unsupported, f.text);
    CHECK_MESSAGE(contains(f.text, "line 1:"), f.text);
  }
  CHECK(render("{{ (-9223372036854775807 - 1) % -1 }}{{ ['\\r', '\\x01'] }}").text == "0['\\r', '\\x01']");
}

// Beyond the sandbox of the reference, which changes no list: templates written for other engines do.
TEST_CASE("jinja: lists and mappings change as in Python") {
  const auto after = [](std::string_view change) {
    const std::string source = "{% set l = [1, 2, 3] %}{% set d = {'a': 1, 'b': 2, 'c': 3} %}{{ " +
                               std::string(change) + " }} {{ l }} {{ d }}";
    return render(source).text;
  };
  const std::string d = " {'a': 1, 'b': 2, 'c': 3}", l = " [1, 2, 3]";
  CHECK(after("l.append(4)") == "None [1, 2, 3, 4]" + d);
  CHECK(after("l.extend([4, 5])") == "None [1, 2, 3, 4, 5]" + d);
  CHECK(after("l.extend(l)") == "None [1, 2, 3, 1, 2, 3]" + d);
  CHECK(after("l.insert(0, 9)") == "None [9, 1, 2, 3]" + d);
  CHECK(after("l.insert(-1, 9)") == "None [1, 2, 9, 3]" + d);
  CHECK(after("l.insert(99, 9)") == "None [1, 2, 3, 9]" + d);
  CHECK(after("l.insert(-99, 9)") == "None [9, 1, 2, 3]" + d);
  CHECK(after("l.pop()") == "3 [1, 2]" + d);
  CHECK(after("l.pop(0)") == "1 [2, 3]" + d);
  CHECK(after("l.pop(-2)") == "2 [1, 3]" + d);
  CHECK(after("d.pop('a')") == "1" + l + " {'b': 2, 'c': 3}");
  CHECK(after("d.pop('b')") == "2" + l + " {'a': 1, 'c': 3}");
  CHECK(after("d.pop('a') ~ d.b ~ d['c']") == "123" + l + " {'b': 2, 'c': 3}");
  CHECK(after("d.pop('x', 5)") == "5" + l + d);
  CHECK(after("d.pop([1], 5)") == "5" + l + d);
  CHECK(after("d.update({'b': 5, 'e': 6})") == "None" + l + " {'a': 1, 'b': 5, 'c': 3, 'e': 6}");
  CHECK(after("d.update(b=7)") == "None" + l + " {'a': 1, 'b': 7, 'c': 3}");
  CHECK(after("d.update(d)") == "None" + l + d);
  for (const char* change :
       {"l.pop(3)", "l.pop(-4)", "[].pop()", "d.pop('x')", "d.update(1)", "d.update({}, {})", "l.insert(0)",
        "l.append()", "l.extend(5)", "d.update(namespace(a=1))", "l.pop('a')"}) {
    CAPTURE(change);
    CHECK(failure([&] { after(change); }).code == Exit::unsupported);
  }
}

TEST_CASE("jinja: malformed syntax is a bad checkpoint with its line") {
  const auto malformed = [](std::string_view source, int line) {
    const Failure f = failure([&] { render(source); });
    CAPTURE(source);
    CHECK_MESSAGE(f.code == Exit::bad_checkpoint, f.text);
    CHECK_MESSAGE(contains(f.text, fmt::format("line {}:", line)), f.text);
  };
  malformed("a\n{{ 'x }}", 2);
  malformed("{% if true %}\n", 1);
  malformed("\n{% endif %}", 2);
  malformed("{# never closed", 1);
  malformed("{{ 1 +\n+ }}", 2);
}

TEST_CASE("jinja: raise_exception is a usage error with the template's words") {
  const Failure f = failure([&] { render("x\n{{ raise_exception('roles must alternate') }}"); });
  CHECK(f.code == Exit::usage);
  CHECK(contains(f.text, "roles must alternate"));
  CHECK(contains(f.text, "line 2"));
}

TEST_CASE("jinja: limits stop a hostile template") {
  const auto stopped = [](const std::string& source, std::string_view word, const Limits& limits = {}) {
    CAPTURE(source.substr(0, 80));
    const auto start = std::chrono::steady_clock::now();
    const Failure f = failure([&] { render(source, "{}", limits); });
    CHECK_MESSAGE(f.code == Exit::unsupported, f.text);
    CHECK_MESSAGE(contains(f.text, word), f.text);
    CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(30));
  };
  const std::string nest = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}";
  stopped(nest, "steps");
  stopped("{{ 'a' * 10 ** 9 }}", "string of more than");
  stopped("{% set x = 'a' * 10 ** 7 %}{{ x * 10 ** 7 }}", "string of more than");
  stopped("{{ [1] * 10 ** 9 }}", "list of more than");
  stopped("{{ range(10 ** 9) }}", "range of more than");
  stopped("{% for i in range(99999) %}{{ 'aaaaaaaaaa' * 1000 }}{% endfor %}", "string of more than");
  stopped("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "nested deeper");
  stopped(
      "{% set ns = namespace(s='aaaaaaaaaaaaaaaa') %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}{% "
      "endfor %}",
      "string of more than");
  stopped(
      "{% set ns = namespace(l=[]) %}{% for i in range(99999) %}{% set ns.l = ns.l + ['a' * 10 ** 6 ~ i] "
      "%}{% endfor %}",
      "memory");
  stopped(
      "{% set ns = namespace(l=[]) %}{% for i in range(99999) %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l "
      "}}",
      "nested deeper");
  stopped("{% set l = [] %}{{ l.append(l) }}{{ l }}", "nested deeper");
  stopped("{% set l = [] %}{{ l.append(l) }}{{ l | tojson }}", "nested deeper");
  stopped("{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}", "nested deeper");
  stopped("{{ 2 ** 64 }}", "64 bits");
  stopped("{{ 9223372036854775807 + 1 }}", "64 bits");
  stopped("{{ 'a'.rjust(10 ** 12) }}", "string of more than");
  stopped("{{ " + std::string(1000, '(') + "1" + std::string(1000, ')') + " }}", "nesting deeper");
  stopped("{{ " + std::string(1000, '[') + std::string(1000, ']') + " }}", "nesting deeper");
  stopped("{{ " + std::string(5000, '-') + "1 }}", "nesting deeper");
  std::string chain = "{{ 1", nots = "{{ ", ifs;
  for (int i = 0; i < 5000; ++i) {
    chain += " + 1";
    nots += "not ";
    ifs += "{% if true %}";
  }
  stopped(chain + " }}", "nested deeper");
  stopped(nots + "1 }}", "nesting deeper");
  stopped(ifs, "nesting deeper");
  stopped(std::string((1u << 20) + 1, 'a'), "a template of");
  stopped("{% for a in range(9999) %}{% endfor %}", "steps", {.steps = 1000});
}

TEST_CASE("jinja: a long elif chain and long concatenations are no nesting") {
  std::string source = "{% if false %}";
  for (int i = 0; i < 3000; ++i) source += "{% elif x == " + std::to_string(i) + " %}" + std::to_string(i);
  CHECK(render(source + "{% endif %}", R"({"x": 2999})").text == "2999");
  std::string sum = "{{ ''";
  for (int i = 0; i < 3000; ++i) sum += " ~ 'a'";
  CHECK(render(sum + " }}").text == std::string(3000, 'a'));
}

TEST_CASE("jinja: megabytes of content and many messages render in linear time") {
  json::Array messages;
  for (int i = 0; i < 20'000; ++i) {
    json::Object m;
    m.emplace_back("role", json::Value(std::string(i % 2 == 0 ? "user" : "assistant")));
    m.emplace_back("content", json::Value("message " + std::to_string(i)));
    messages.emplace_back(std::move(m));
  }
  json::Object big;
  big.emplace_back("role", json::Value(std::string("user")));
  big.emplace_back("content", json::Value(std::string(8u << 20, 'x')));
  messages.emplace_back(std::move(big));
  const std::vector<Variable> context = {{"messages", json::Value(std::move(messages)), true},
                                         {"add_generation_prompt", json::Value(true), false}};
  for (const std::string_view name : builtin_template_names()) {
    CAPTURE(name);
    const auto start = std::chrono::steady_clock::now();
    const Rendered r = Template(*builtin_template(name), name).render(context, 0);
    CHECK(r.text.size() > (8u << 20) + 20'000 * 9);
    CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(10));
  }
}
