"""Small templates, by construct, and the context they are rendered in."""

VALUES = {
    "s": "Hello, World", "e": "", "u": "naïve 你好 🙂 ẞß", "ws": " \t pad\u00a0ded \n", "lines": "a\nb\r\nc\n\nd",
    "n": 7, "z": 0, "neg": -7, "f": 2.5, "t": True, "no": False, "none_value": None, "big": 1e22, "tiny": 1.5e-07,
    "quote": "it's \"q\" \\ \x07 \u200b \x7f", "html": "<a href='x'>&amp;</a>",
    "l": [3, 1, 2], "strs": ["b", "A", "c", "a"], "nested": [[1, 2], [3, 4]], "empty_list": [], "mixed": [1, "a", None, True, 2.0],
    "d": {"k": "v", "items": "shadow", "b": 2, "a": 1}, "empty_dict": {},
    "people": [{"name": "Bo", "age": 30, "tags": ["x"]}, {"name": "Al", "age": 25, "ok": True}, {"name": "cy", "age": 30, "ok": False}],
    "deep": {"a": {"b": [{"c": "found"}]}},
    "messages": [{"role": "system", "content": "sys"}, {"role": "user", "content": "hi"}, {"role": "assistant", "content": None}],
}

SNIPPETS = {
    "output": [
        "", "plain", "{{ s }}", "{{s}}{{ n }}", "{{ t }} {{ no }} {{ none_value }} {{ f }} {{ big }} {{ tiny }}", "{{ nope }}|",
        "{{ l }} {{ strs }} {{ mixed }} {{ d }} {{ (1,) }} {{ (1, 'a') }} {{ () }} {{ [] }} {{ {} }}", "{{ quote }}", "{{ [quote] }}",
        "{{ [u, ws, e] }}", "{{ 1, 2 }}", "{{ 1e16 }} {{ 1e15 }} {{ 123456.789 }} {{ 0.0001 }} {{ 0.00001 }} {{ 1.0 }} {{ 1e400 }} {{ -0.0 }}",
    ],
    "white space": [
        "  {% if t %}  \n  x\n  {% endif %}  \ny\n", "a\n{% if t %}\nb\n{% endif %}\nc\n\n", "a {%- if t -%} b {%- endif -%} c", "a {%+ if t %} b {%+ endif %} c",
        "  {%+ if t +%}\n x{% endif %}", "x\n   {{- s -}}   \ny", "x\n   {{ s }}   \ny", "x\n\t{# c #}\ny", "x\n  {#- c -#}  \ny", "{# a\nb #}\n\nz", "{#c#}{#-#}x",
        "a\r\nb\rc\n", "{% set a = 1 %}\n\n{{ a }}\n\n", "{% if t %}{% endif %}\n{% if t %}\n{% endif %}\n.", "  {% set x = 1 %}  {% set y = 2 %}\n{{ x }}",
        "{%- raw -%}  {{ x }} {% if %} {#  {%- endraw -%}  y", "{% raw %}\n{{ x }}\n{% endraw %}\ny", "{% raw %}a{% endraw %}b", "a{{ '\n' }}b", "x  {%- set a = 1 -%}  y",
        "\n\n{{ s }}", "{{ s }}\n", "{{ s }}\n\n", "{", "{ {", "}}", "%}", "a{ b }c", "a { {{ n }} } b",
        "{{-n-}}", "{{+n}}", "{{ -n }}", "x {{--n}}",
        "\u00a0 {% if t %}y{% endif %}", "a  \n  \n  {%- if t %}\nb{% endif %}", "   {#- x #}   {% if t %}y\n   {% endif %}\n z",
    ],
    "literals": [
        "{{ 'a\\n\\t\\\\\\'b' }}", '{{ "a\\"b\'c" }}', "{{ '\\x41\\u00e9\\U0001F600\\101' }}", "{{ '\\q\\d' }}", "{{ 'a' 'b' \"c\" }}", "{{ 'multi\nline' }}",
        "{{ 1_000 }} {{ 1.5e3 }} {{ 1e-2 }} {{ 00 }}", "{{ true }} {{ True }} {{ false }} {{ none }} {{ None }}", "{{ [1, 2,] }} {{ {'a': 1, 'b': [2],} }} {{ (1, 2,) }}",
        "{{ {'a': 1}['a'] }} {{ {1: 'x'}[1] }} {{ {1: 'x'}[true] }}", "{{ '你\\u597d' }}", "{{ ('a') }} {{ ('a',) }}", "{{ [[1], [2, [3]]] }}", "{{ 007 }}", "{{ 'x }}", "{{ 1.e }}",
        "{{ {'a': 1, 'a': 2} }}", "{{ {none: 1, 1.0: 2, 1: 3} }}",
    ],
    "operators": [
        "{{ 1 + 2 * 3 - 4 }}", "{{ 7 / 2 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ 7 % 3 }} {{ -7 % 3 }} {{ 7 % -3 }}", "{{ 2 ** 10 }} {{ 2 ** 3 ** 2 }} {{ -2 ** 2 }} {{ 2 ** -1 }}",
        "{{ 7.5 // 2 }} {{ -7.5 % 2 }} {{ 7.5 % -2 }} {{ 1.0 * 3 }} {{ 0.1 + 0.2 }} {{ 6 / 3 }}", "{{ 'a' ~ 1 ~ none ~ 2.0 ~ nope ~ true }}", "{{ 'a' + 'b' }} {{ [1] + [2] }} {{ (1,) + (2,) }}",
        "{{ 'ab' * 3 }} {{ 2 * 'x' }} {{ [1] * 2 }} {{ 'a' * -1 }}|", "{{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ 1 == 1.0 }} {{ 1 == true }} {{ 'a' < 'b' }} {{ [1, 2] < [1, 3] }}",
        "{{ 1 != 2 }} {{ 'a' == 'a' }} {{ none == none }} {{ nope == nope }} {{ [] == [] }} {{ [1] == (1,) }} {{ {'a': 1} == {'a': 1.0} }}", "{{ 2 >= 2 }} {{ 2 <= 1 }} {{ 2 > 1 }}",
        "{{ 'ell' in s }} {{ 'x' not in s }} {{ 1 in l }} {{ 'k' in d }} {{ 'x' in nope }} {{ 9 in l }} {{ none in mixed }}", "{{ not t }} {{ not not e }} {{ not nope }}",
        "{{ 1 and 0 }} {{ e or 'x' }} {{ nope or none }} {{ 'a' and 'b' or 'c' }} {{ no and nope.x }}", "{{ 'y' if t else 'n' }} {{ 'y' if no }}| {{ 1 if 0 else 2 if 0 else 3 }}",
        "{{ not 1 == 2 }} {{ not 'a' in 'b' }}", "{{ -f }} {{ +n }} {{ -(-n) }} {{ - 3 }} {{ -n | abs }}", "{{ 1 + 1 ~ 'x' }}", "{{ 1 ~ 2 }}", "{{ 1 ~ 2 + 3 }}",
        "{{ true + true }} {{ true * 3 }}", "{{ 'a %s b %d %%' % ('x', 3) }} {{ '%s' % 'y' }}", "{{ 1 / 0 }}", "{{ 'a' + 1 }}", "{{ nope + 'a' }}", "{{ none + 'a' }}", "{{ 1 < 'a' }}", "{{ 1 in 5 }}", "{{ nope in 'abc' }}", "{{ 1 in 'abc' }}",
        "{{ 5 % 0 }}", "{{ [1] + (2,) }}", "{{ 9223372036854775807 }}", "{{ (1, 2) < (1, 3) }} {{ 'a' in ['a'] }} {{ (1, 2) in [(1, 2)] }}",
    ],
    "subscripts": [
        "{{ l[0] }} {{ l[-1] }} {{ l[9] }}| {{ s[0] }} {{ s[-1] }} {{ s[99] }}|", "{{ s[1:4] }} {{ s[:3] }} {{ s[3:] }} {{ s[::-1] }} {{ s[-3:] }} {{ s[::2] }} {{ s[10:2] }} {{ s[5:1:-2] }}",
        "{{ l[1:] }} {{ l[::-1] }} {{ l[:-1] }} {{ (1, 2, 3)[1:] }} {{ l[-99:99] }} {{ l[99:-99:-1] }}", "{{ u[6] }} {{ u[6:8] }} {{ u[-1] }} {{ u[::-1] }} {{ u[9:] }}",
        "{{ d.k }} {{ d['k'] }} {{ d.missing }}| {{ d['missing'] }}| {{ deep.a.b[0].c }} {{ deep['a']['b'][-1]['c'] }}", "{{ d['items'] }} {{ d.items() | list | length }}", "{{ nested[1].0 }} {{ nested.1.1 }}",
        "{{ nope.x }}", "{{ nope['x'] }}", "{{ d.missing.x }}", "{{ d.missing.x is defined }}", "{{ none_value.x }}|{{ none_value['x'] }}|", "{{ n.x }}|{{ n[0] }}|", "{{ l['x'] }}|", "{{ l[none] }}|{{ l['0'] }}|{{ l[1.0] }}|",
        "{{ l[nope] }}|", "{{ d[nope] }}|", "{{ d[l] }}|", "{{ none_value[1:] }}|", "{{ d[1:] }}|", "{{ messages[0].role }}{{ messages[-1].content }}", "{{ l[true] }}", "{{ s.foo }}|", "{{ s[::0] }}", "{{ 'abc'[1] }}{{ [1,2][0] }}",
    ],
    "set": [
        "{% set x = 1 %}{{ x }}{% set x = x + 1 %}{{ x }}", "{% set a, b = 1, 2 %}{{ b }}{{ a }}", "{% set (a, b) = [1, 2] %}{{ b }}{{ a }}", "{% set x %}a{{ n }}b{% endset %}{{ x }}{{ x | length }}",
        "{% set x | upper %}a{{ n }}b{% endset %}{{ x }}", "{% set x | trim | replace('a', 'b') %} aa {% endset %}[{{ x }}]", "{% set ns = namespace(a=1) %}{% for i in l %}{% set ns.a = ns.a + i %}{% endfor %}{{ ns.a }}",
        "{% set x = 0 %}{% for i in l %}{% set x = x + i %}{{ x }}{% endfor %}{{ x }}", "{% if t %}{% set x = 5 %}{% endif %}{{ x }}", "{% set ns = namespace() %}{% set ns.x = 1 %}{{ ns.x }}{{ ns.y }}|", "{% set ns = namespace({'q': 1}, r=2) %}{{ ns.q }}{{ ns.r }}{{ ns['q'] }}",
        "{% set x.y = 1 %}", "{% set d.k = 1 %}", "{% set a, b = 1 %}", "{% set a, b = [1, 2, 3] %}", "{% set x = 1, 2 %}{{ x }}", "{% set s = 'shadow' %}{{ s }}", "{% set true = 1 %}", "{% with a = 1, b = 2 %}{{ a + b }}{% endwith %}{{ a }}|",
        "{% with %}{% set q = 1 %}{{ q }}{% endwith %}{{ q }}|", "{% set n = n + 1 %}{{ n }}", "{% set ns = namespace(l=[]) %}{% set ns.l = ns.l + [1] %}{% set ns.l = ns.l + [2] %}{{ ns.l }}", "{% set x %}{% set y = 2 %}{{ y }}{% endset %}{{ x }}{{ y }}|",
    ],
    "for": [
        "{% for i in l %}{{ i }},{% endfor %}", "{% for i in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }} {% endfor %}", "{% for i in empty_list %}x{% else %}none{% endfor %}",
        "{% for i in l if i > 1 %}{{ i }}{{ loop.index }}{{ loop.length }}{{ loop.last }} {% endfor %}", "{% for i in l if i > 9 %}x{% else %}e{% endfor %}", "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}", "{% for k in d %}{{ k }}{% endfor %}{% for c in 'añb' %}[{{ c }}]{% endfor %}",
        "{% for a, b in nested %}{{ a }}{{ b }} {% endfor %}", "{% for (a, b) in nested %}{{ a }}{{ b }} {% endfor %}", "{% for i in l %}{{ loop.previtem }}<{{ i }}>{{ loop.nextitem }} {% endfor %}", "{% for i in l %}{% for j in l %}{{ loop.index }}{{ loop.depth }}{% endfor %}{{ loop.depth0 }} {% endfor %}",
        "{% for i in range(10) %}{% if i == 2 %}{% continue %}{% endif %}{% if i > 4 %}{% break %}{% endif %}{{ i }}{% endfor %}", "{% for i in nope %}x{% else %}u{% endfor %}", "{% for i in 5 %}x{% endfor %}", "{% for i in none_value %}x{% endfor %}", "{% for a, b in l %}x{% endfor %}",
        "{% for i in l %}{{ loop.cycle('o', 'e') }}{% endfor %}", "{% for i in [1, 1, 2] %}{{ loop.changed(i) }} {% endfor %}", "{% for i in l %}{% set outer = loop %}{% for j in [1] %}{{ outer.index }}{% endfor %}{% endfor %}", "{% for i in range(3) %}{{ i }}{% endfor %}{{ i }}|", "{{ loop }}|", "{% for i in 1, 2 %}{{ i }}{% endfor %}",
        "{% for m in messages %}{% if not loop.first %}, {% endif %}{{ m.role }}{% endfor %}", "{% for i in range(5, 0, -2) %}{{ i }}{% endfor %}", "{% for i in range(2, 4) %}{{ i }}{% endfor %}", "{% for p in people | sort(attribute='name') %}{{ p.name }}{% endfor %}", "{% break %}",
        "{% for i in l %}{{ i }}{% else %}x{% endfor %}", "{% for k, v in d | dictsort %}{{ k }}{{ v }}{% endfor %}", "{% for k, v in empty_dict | items %}x{% endfor %}.", "{% for i in l if loop.first %}{{ i }}{% endfor %}", "{% for x in l %}{{ x }}{% endfor %}",
        "{% for i in l %}\n  {{ i }}\n{% endfor %}\nend", "{%- for i in l -%}\n  {{ i }}\n{%- endfor -%}\nend", "{% for x in x %}{{ x }}{% endfor %}.",
    ],
    "if": [
        "{% if no %}a{% elif n == 7 %}b{% else %}c{% endif %}", "{% if no %}a{% elif no %}b{% else %}c{% endif %}", "{% if nope %}a{% endif %}.", "{% if e or empty_list or empty_dict or z or none_value %}a{% else %}f{% endif %}", "{% if not nope %}a{% endif %}", "{% if t %}{% if no %}x{% else %}y{% endif %}{% endif %}",
        "{% if no %}a{% elif no %}b{% elif no %}c{% elif t %}d{% elif t %}e{% endif %}", "{% if l and l[0] == 3 and d.k is defined %}yes{% endif %}", "{% if (n > 5 and n < 10) or no %}in{% endif %}", "{% if 'a' if no else '' %}x{% endif %}.", "{% if messages | selectattr('role', 'equalto', 'nobody') %}gen{% endif %}", "{% if messages | selectattr('role', 'equalto', 'nobody') | list %}x{% endif %}.",
    ],
    "macros": [
        "{% macro f(a, b=2) %}<{{ a }}{{ b }}>{% endmacro %}{{ f(1) }}{{ f(1, 3) }}{{ f(b=4, a=5) }}", "{% macro f(a) %}{{ a }}{% endmacro %}{{ f() }}|{{ f(1) | length }}", "{% macro f(a, b=a) %}{{ b }}{% endmacro %}{{ f('q') }}", "{% macro f() %}{{ n }}{% set n = 3 %}{{ n }}{% endmacro %}{{ f() }}{{ n }}",
        "{% macro f(k) %}{% if k > 0 %}{{ k }}{{ f(k - 1) }}{% endif %}{% endmacro %}{{ f(5) }}", "{% macro f() %}[{{ caller() }}]{% endmacro %}{% call f() %}body{{ n }}{% endcall %}", "{% macro f() %}{{ caller(1, 2) }}{% endmacro %}{% call(a, b) f() %}{{ a }}-{{ b }}{% endcall %}", "{% macro f(a) %}x{% endmacro %}{{ f(1, 2) }}", "{% macro f(a) %}x{% endmacro %}{{ f(c=2) }}",
        "{{ f }}|{% macro f() %}x{% endmacro %}", "{% macro f() -%}  x  {%- endmacro %}[{{ f() }}]", "{% set x = 1 %}{% macro f() %}{{ x }}{% endmacro %}{% set x = 2 %}{{ f() }}", "{% macro f(l) %}{% for i in l %}{{ i }}{% endfor %}{% endmacro %}{{ f([1, 2]) ~ f([3]) }}", "{% macro a() %}A{{ b() }}{% endmacro %}{% macro b() %}B{% endmacro %}{{ a() }}", "{{ s() }}", "{{ nope() }}",
        "{% macro f(a, b) %}{{ a is defined }}{{ b is defined }}{% endmacro %}{{ f(1) }}", "{% for i in [1, 2] %}{% macro g() %}{{ i }}{% endmacro %}{{ g() }}{% endfor %}", "{% filter upper %}a{{ s }}{% endfilter %}", "{% filter replace('a', 'b') | upper %}aXa{% endfilter %}", "{% generation %}g{{ n }}{% endgeneration %}!",
    ],
    "methods": [
        "{{ 'a,b,c'.split(',') }} {{ 'a b  c'.split() }} {{ ws.split() }} {{ 'a,b,c'.split(',', 1) }} {{ 'a b c'.split(None, 1) }} {{ ''.split(',') }} {{ ''.split() }}", "{{ 'a,b,c'.rsplit(',', 1) }} {{ ' a b c '.rsplit(none, 1) }} {{ 'abc'.rsplit('x', 1) }} {{ 'a--b--c'.rsplit('--', 1) }} {{ 'a b'.rsplit() }}",
        "[{{ ws.strip() }}] [{{ ws.lstrip() }}] [{{ ws.rstrip() }}] {{ 'xxaxx'.strip('x') }} {{ 'abcba'.lstrip('ab') }} {{ 'éaé'.strip('é') }} {{ 'xay'.strip('xy') }}", "{{ s.startswith('He') }} {{ s.endswith(('x', 'ld')) }} {{ s.startswith('') }} {{ s.endswith('Hello, World!!') }}", "{{ s.replace('l', 'L') }} {{ s.replace('l', 'L', 1) }} {{ 'ab'.replace('', '-') }} {{ 'aaa'.replace('aa', 'b') }} {{ ''.replace('', 'x') }}",
        "{{ s.upper() }} {{ s.lower() }} {{ u.upper() }} {{ 'hello world-foo it\\'s'.title() }} {{ 'hELLO wORLD'.capitalize() }} {{ 'éa'.capitalize() }}", "{{ s.find('o') }} {{ s.find('zz') }} {{ s.rfind('o') }} {{ u.find('🙂') }} {{ s.index('W') }} {{ s.count('l') }} {{ 'aaa'.count('aa') }} {{ 'ab'.count('') }}", "{{ ','.join(strs) }} {{ ''.join([]) }} {{ '-'.join('abc') }}", "{{ '{} {} {}'.format(1, 'a', none) }} {{ '{0}{1}{0}'.format('x', 'y') }} {{ '{a}{{}}'.format(a=1) }}",
        "{{ d.get('k') }} {{ d.get('x') }} {{ d.get('x', 'def') }} {{ d.keys() | list }} {{ d.values() | list }} {{ d.items() | list }}", "{{ lines.splitlines() }} {{ ''.splitlines() }}", "{{ 'a=b=c'.partition('=') }} {{ 'a=b=c'.rpartition('=') }} {{ 'abc'.partition('=') }} {{ 'abc'.rpartition('=') }}", "{{ 'prefix-x'.removeprefix('prefix-') }} {{ 'x.txt'.removesuffix('.txt') }} {{ 'abc'.removeprefix('x') }}",
        "{{ '12'.isdigit() }} {{ 'ab1'.isalnum() }} {{ 'ab'.isalpha() }} {{ ' '.isspace() }} {{ ''.isdigit() }} {{ 'AB'.isupper() }} {{ 'ab1'.islower() }} {{ '1'.isupper() }}", "{{ '7'.zfill(3) }} {{ '-7'.zfill(4) }} [{{ 'a'.ljust(3) }}] [{{ 'a'.rjust(3, '.') }}] [{{ 'a'.center(4) }}] [{{ 'ab'.center(5, '*') }}]", "{{ s.nope() }}", "{{ none_value.strip() }}", "{{ n.strip() }}", "{{ 'a'.split('') }}", "{{ 'x'.join([1]) }}", "{{ s.index('zz') }}",
        "{{ l.count(1) }} {{ l.index(2) }} {{ (1, 2, 1).count(1) }}", "{{ l.index(99) }}", "{{ 'a'.startswith(1) }}", "{{ 'a.b.c'.split('.')[-1].upper().lower() }}", "{{ ('a' ~ 'b').upper() }} {{ 'x'.upper()[0] }}", "{{ s.strip is callable }}", "{{ '</think>x</think>y'.split('</think>')[-1].lstrip('\\n') }}", "{{ 'ABC'.title() }} {{ '1a b2b'.title() }}", "{{ '  x '.strip(none) }}|",
    ],
    "filters": [
        "{{ d | tojson }} {{ mixed | tojson }} {{ none | tojson }} {{ quote | tojson }} {{ u | tojson }} {{ html | tojson }} {{ 1.0 | tojson }} {{ big | tojson }} {{ (1, 2) | tojson }}", "{{ deep | tojson(indent=2) }}", "{{ [] | tojson(indent=2) }}{{ {} | tojson(indent=2) }}{{ [[]] | tojson(indent=1) }}", "{{ d | tojson(sort_keys=true) }} {{ d | tojson(separators=(',', ':')) }} {{ u | tojson(ensure_ascii=true) }} {{ quote | tojson(ensure_ascii=True) }}", "{{ d | tojson(indent='--') }} {{ l | tojson(indent=0) }}", "{{ {1: 2, none: 3, true: 4, 1.5: 5} | tojson }}", "{{ nope | tojson }}", "{{ [nope] | tojson }}", "{{ d | tojson(False, 4) }}", "{{ people | tojson(indent=4, separators=(', ', ' : ')) }}",
        "{{ s | string }} {{ n | string ~ 'x' }} {{ s | length }} {{ u | length }} {{ d | length }} {{ nope | length }} {{ l | count }}", "[{{ ws | trim }}] {{ 'xax' | trim('x') }} {{ n | trim }}", "{{ l | join(', ') }} {{ l | join }} {{ people | join('/', attribute='name') }} {{ 'abc' | join('-') }} {{ mixed | join(',') }} {{ nope | join }}|", "{{ 'abc' | list }} {{ d | list }} {{ nope | list }} {{ (1, 2) | list }}", "{{ nope | default('x') }} {{ none_value | default('x') }} {{ e | default('x', true) }} {{ nope | d }}| {{ nope | default(default_value='k') }} {{ none_value | default('x', boolean=true) }}",
        "{{ s | upper }} {{ s | lower }} {{ 'foo bar-baz (qux)' | title }} {{ 'fOO bAR' | capitalize }} {{ n | upper }}", "{{ s | replace('l', 'L') }} {{ s | replace('l', 'L', 2) }} {{ n | replace('7', '8') }} {{ s | replace(old='o', new='0', count=1) }}", "{{ l | first }} {{ l | last }} {{ empty_list | first }}| {{ 'abc' | first }}{{ 'abc' | last }} {{ nope | first }}|", "{{ l | reverse | list }} {{ 'abc' | reverse }} {{ u | reverse }} {{ d | reverse | list }}", "{{ [1, 1, 2, 'a', 'A'] | unique | list }} {{ ['b', 'B', 'a'] | unique(case_sensitive=true) | list }} {{ people | unique(attribute='age') | map(attribute='name') | list }}",
        "{{ people | map(attribute='name') | list }} {{ people | map(attribute='ok', default='?') | list }} {{ [{'a': ['x']}] | map(attribute='a.0') | list }} {{ strs | map('upper') | list }} {{ strs | map('replace', 'a', 'z') | join }} {{ nested | map('join', '+') | list }}", "{{ people | selectattr('ok') | map(attribute='name') | list }} {{ people | selectattr('age', 'equalto', 30) | list | length }} {{ people | rejectattr('ok') | map(attribute='name') | list }} {{ people | selectattr('ok', 'defined') | list | length }}", "{{ [0, 1, 2, 3] | select | list }} {{ [0, 1, 2, 3] | select('odd') | list }} {{ [0, 1, 2, 3] | reject('gt', 1) | list }} {{ [1, none, 'a'] | select('string') | list }} {{ [1, 2] | select('in', [2]) | list }}",
        "{{ l | sort }} {{ l | sort(reverse=true) }} {{ strs | sort }} {{ strs | sort(case_sensitive=true) }} {{ people | sort(attribute='age') | map(attribute='name') | list }} {{ l | sort(true) }}", "{{ d | dictsort }} {{ {'b': 1, 'a': 2} | dictsort(by='value') }} {{ {'B': 1, 'a': 2} | dictsort(true) }} {{ {'b': 1, 'a': 2} | dictsort(reverse=true) }}", "{{ d | items | list }} {{ nope | items | list }}", "{{ '42' | int }} {{ '4.9' | int }} {{ 'x' | int }} {{ 'x' | int(-1) }} {{ 3.7 | int }} {{ '0x1f' | int(base=16) }} {{ true | int }} {{ none | int }} {{ ' 7 ' | int }} {{ '1e3' | int }} {{ '-5' | int }} {{ '101' | int(0, 2) }}", "{{ '4.5' | float }} {{ 'x' | float }} {{ 'x' | float(1.5) }} {{ 3 | float }} {{ ' 1e3 ' | float }}",
        "{{ 2.567 | round(2) }} {{ 2.5 | round }} {{ 3.5 | round }} {{ 7 | round }} {{ 2.3 | round(0, 'ceil') }} {{ 2.7 | round(method='floor') }} {{ 2.345 | round(1, 'floor') }} {{ 0.125 | round(2) }} {{ 1e22 | round(1) }}", "{{ -3 | abs }} {{ -2.5 | abs }}", "{{ 'a\\nb\\n\\nc' | indent }}|{{ 'a\\nb' | indent(2, true) }}|{{ 'a\\n\\nb' | indent(2, blank=true) }}|{{ 'a\\nb\\n' | indent(2) }}|{{ 'a\\nb' | indent('> ') }}|{{ '' | indent }}|", "{{ l | sum }} {{ people | sum(attribute='age') }} {{ [] | sum }} {{ [1.5, 2] | sum(start=10) }}", "{{ l | min }} {{ l | max }} {{ strs | min }} {{ strs | max }} {{ people | max(attribute='age') }} {{ [] | min }}|",
        "{{ html | safe }}", "{{ html | e }}", "{{ html | escape }}", "{{ 'x' | string | safe }}", "{{ '%s-%s' | format('a', 1) }}", "{{ s | nope }}", "{{ 's' | upper(1) }}", "{{ l | map | list }}", "{{ people | selectattr('age', 'nope') | list }}", "{{ n | length }}", "{{ l | map('upper') | length }}", "{{ [1, 'a'] | sort }}", "{{ s | trim | upper | replace('L', 'l') | length }}", "{{ [3, 1] | sort | first }}", "{{ none_value | upper }}", "{{ nope | upper }}|{{ nope | trim }}|", "{{ n | join }}", "{{ l | first(1) }}",
    ],
    "tests": [
        "{{ s is string }} {{ n is string }} {{ n is number }} {{ t is number }} {{ f is number }} {{ n is integer }} {{ t is integer }} {{ f is float }} {{ t is boolean }} {{ t is true }} {{ no is false }} {{ n is true }}", "{{ nope is defined }} {{ s is defined }} {{ nope is undefined }} {{ none_value is none }} {{ nope is none }} {{ d.x is defined }} {{ d.k is not none }} {{ none_value is defined }}", "{{ d is mapping }} {{ l is mapping }} {{ l is iterable }} {{ s is iterable }} {{ n is iterable }} {{ l is sequence }} {{ d is sequence }} {{ n is sequence }} {{ range is callable }} {{ nope is iterable }} {{ s is callable }}",
        "{{ n is odd }} {{ n is even }} {{ n is divisibleby 7 }} {{ n is divisibleby(2) }} {{ n is eq 7 }} {{ n is equalto 7 }} {{ n is ne 7 }} {{ n is gt 3 }} {{ n is lt(3) }} {{ n is ge 7 }} {{ n is le 6 }} {{ n is in [7] }} {{ 'a' is in 'abc' }} {{ n is greaterthan 1 }} {{ n is lessthan 1 }}", "{{ 'abc' is lower }} {{ 'ABC' is upper }} {{ 'aB' is lower }} {{ none is sameas none }} {{ true is sameas true }} {{ '1' is upper }}", "{{ not n is string }} {{ n is not string and t }} {{ n is not odd or no }} {{ 'x' if n is defined else 'y' }}", "{{ n is nope }}", "{{ s is odd }}", "{{ n is divisibleby 0 }}", "{{ messages[2].content is none and messages[2]['tool_calls'] is not defined }}", "{{ namespace() is mapping }}",
    ],
    "functions": [
        "{{ range(3) | list }} {{ range(1, 4) | list }} {{ range(5, 0, -2) | list }} {{ range(0) | list }} {{ range(3) | length }}", "{{ dict(a=1, b='x') }} {{ dict({'a': 1}, c=3) }} {{ dict() }} {{ dict([('a', 1), ('b', 2)]) }}", "{{ raise_exception('no') }}", "{{ strftime_now('%Y-%m-%d') }} {{ strftime_now('%d %b %Y') }}{{ strftime_now('') }}", "{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}{{ c.current }}{{ c.reset() }}{{ c.next() }}", "{% set j = joiner('; ') %}{{ j() }}{{ j() }}{{ j() }}", "{{ range(1, 2, 0) | list }}", "{{ range(1000000) | list | length }}", "{{ range('a') }}", "{{ range() }}",
        "{{ namespace(a=1).a }}", "{% if no %}{{ raise_exception('x') }}{% endif %}ok",
    ],
    "syntax errors": [
        "{% if %}x{% endif %}", "{% if t %}", "{% endif %}", "{{ }}", "{{ 1 + }}", "{{ (1 }}", "{{ 1) }}", "{% for x %}{% endfor %}", "{% for 1 in l %}{% endfor %}", "{{ [1 }}", "{{ 'a", "{{ a", "{% set %}", "{# x", "{% raw %}x", "{% nope %}", "{{ a b }}", "{{ a | }}", "{{ a is }}", "{{ {1} }}", "{{ a[ }}", "{{ f(a=1, 2) }}", "{{ . }}", "{{ a..b }}", "{{ $ }}", "{% macro %}{% endmacro %}", "{% if t %}{% endfor %}", "{% else %}", "{% for i in l %}{% endif %}", "{{ not }}", "{{ 1 if }}", "{% set x = %}", "{{ a.1b }}", "{{ ! }}", "{{ a ! b }}", "{% call s %}{% endcall %}",
    ],
}
