#include "tokenizer/templates.h"

#include <algorithm>
#include <iterator>

namespace fathom {

namespace {

struct Builtin {
  std::string_view name, source;
};

// Plain-text turns; no space behind the final "Assistant:".
constexpr std::string_view kDeepSeekV2 = R"jinja(
{{- bos_token | default('<｜begin▁of▁sentence｜>') -}}
{%- for message in messages -%}
  {%- if message.role == 'user' -%}
    {{- 'User: ' + message.content + '\n\n' -}}
  {%- elif message.role == 'assistant' -%}
    {{- 'Assistant: ' + (message.content or '') + (eos_token | default('<｜end▁of▁sentence｜>')) -}}
  {%- elif message.role == 'system' -%}
    {{- message.content + '\n\n' -}}
  {%- else -%}
    {{- raise_exception('the deepseek-v2 template has no role ' + message.role) -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- 'Assistant:' -}}
{%- endif -%}
)jinja";

// System texts first; an answer that follows tool outputs continues the turn that called the tools.
constexpr std::string_view kDeepSeekV3 = R"jinja(
{%- set bos = bos_token | default('<｜begin▁of▁sentence｜>') -%}
{%- set eos = eos_token | default('<｜end▁of▁sentence｜>') -%}
{{- bos -}}
{{- messages | selectattr('role', 'equalto', 'system') | map(attribute='content') | join('\n\n') -}}
{%- for message in messages -%}
  {%- if message.role == 'user' -%}
    {{- '<｜User｜>' + message.content -}}
  {%- elif message.role == 'assistant' -%}
    {%- if loop.previtem is undefined or loop.previtem.role != 'tool' -%}
      {{- '<｜Assistant｜>' -}}
    {%- endif -%}
    {{- message.content or '' -}}
    {%- if message.tool_calls -%}
      {{- '<｜tool▁calls▁begin｜>' -}}
      {%- for call in message.tool_calls -%}
        {%- set arguments = call.function.arguments -%}
        {{- '\n' if not loop.first -}}
        {{- '<｜tool▁call▁begin｜>' + (call.type or 'function') + '<｜tool▁sep｜>' + call.function.name + '\n```json\n' -}}
        {{- (arguments if arguments is string else arguments | tojson) + '\n```<｜tool▁call▁end｜>' -}}
      {%- endfor -%}
      {{- '<｜tool▁calls▁end｜>' -}}
    {%- endif -%}
    {{- eos -}}
  {%- elif message.role == 'tool' -%}
    {{- '\n' if loop.previtem is defined and loop.previtem.role == 'tool' else '<｜tool▁outputs▁begin｜>' -}}
    {{- '<｜tool▁output▁begin｜>' + message.content + '<｜tool▁output▁end｜>' -}}
    {%- if loop.nextitem is undefined or loop.nextitem.role != 'tool' -%}
      {{- '<｜tool▁outputs▁end｜>' -}}
    {%- endif -%}
  {%- elif message.role != 'system' -%}
    {{- raise_exception('the deepseek-v3 template has no role ' + message.role) -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt and messages and messages[-1].role != 'tool' -%}
  {{- '<｜Assistant｜>' -}}
{%- endif -%}
)jinja";

// As V3, but earlier turns lose their reasoning and the prompt opens the thinking block.
constexpr std::string_view kDeepSeekR1 = R"jinja(
{%- set bos = bos_token | default('<｜begin▁of▁sentence｜>') -%}
{%- set eos = eos_token | default('<｜end▁of▁sentence｜>') -%}
{{- bos -}}
{{- messages | selectattr('role', 'equalto', 'system') | map(attribute='content') | join('\n\n') -}}
{%- for message in messages -%}
  {%- if message.role == 'user' -%}
    {{- '<｜User｜>' + message.content -}}
  {%- elif message.role == 'assistant' -%}
    {%- if loop.previtem is undefined or loop.previtem.role != 'tool' -%}
      {{- '<｜Assistant｜>' -}}
    {%- endif -%}
    {{- (message.content or '').split('</think>')[-1] -}}
    {%- if message.tool_calls -%}
      {{- '<｜tool▁calls▁begin｜>' -}}
      {%- for call in message.tool_calls -%}
        {%- set arguments = call.function.arguments -%}
        {{- '\n' if not loop.first -}}
        {{- '<｜tool▁call▁begin｜>' + (call.type or 'function') + '<｜tool▁sep｜>' + call.function.name + '\n```json\n' -}}
        {{- (arguments if arguments is string else arguments | tojson) + '\n```<｜tool▁call▁end｜>' -}}
      {%- endfor -%}
      {{- '<｜tool▁calls▁end｜>' -}}
    {%- endif -%}
    {{- eos -}}
  {%- elif message.role == 'tool' -%}
    {{- '<｜tool▁outputs▁begin｜>' if loop.previtem is undefined or loop.previtem.role != 'tool' -}}
    {{- '<｜tool▁output▁begin｜>' + message.content + '<｜tool▁output▁end｜>' -}}
    {%- if loop.nextitem is undefined or loop.nextitem.role != 'tool' -%}
      {{- '<｜tool▁outputs▁end｜>' -}}
    {%- endif -%}
  {%- elif message.role != 'system' -%}
    {{- raise_exception('the deepseek-r1 template has no role ' + message.role) -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt and messages and messages[-1].role != 'tool' -%}
  {{- '<｜Assistant｜><think>\n' -}}
{%- endif -%}
)jinja";

// `thinking` chooses whether the generation prompt opens or closes the thinking block.
constexpr std::string_view kDeepSeekV31 = R"jinja(
{%- set bos = bos_token | default('<｜begin▁of▁sentence｜>') -%}
{%- set eos = eos_token | default('<｜end▁of▁sentence｜>') -%}
{%- set thinking = thinking | default(false) -%}
{{- bos -}}
{{- messages | selectattr('role', 'equalto', 'system') | map(attribute='content') | join('\n\n') -}}
{%- for message in messages -%}
  {%- if message.role == 'user' -%}
    {{- '<｜User｜>' + message.content -}}
  {%- elif message.role == 'assistant' -%}
    {%- if loop.previtem is undefined or loop.previtem.role != 'tool' -%}
      {{- '<｜Assistant｜></think>' -}}
    {%- endif -%}
    {{- (message.content or '').split('</think>', 1)[-1] -}}
    {%- if message.tool_calls -%}
      {{- '<｜tool▁calls▁begin｜>' -}}
      {%- for call in message.tool_calls -%}
        {%- set arguments = call.function.arguments -%}
        {{- '<｜tool▁call▁begin｜>' + call.function.name + '<｜tool▁sep｜>' -}}
        {{- (arguments if arguments is string else arguments | tojson) + '<｜tool▁call▁end｜>' -}}
      {%- endfor -%}
      {{- '<｜tool▁calls▁end｜>' -}}
    {%- endif -%}
    {{- eos -}}
  {%- elif message.role == 'tool' -%}
    {{- '<｜tool▁output▁begin｜>' + message.content + '<｜tool▁output▁end｜>' -}}
  {%- elif message.role != 'system' -%}
    {{- raise_exception('the deepseek-v3.1 template has no role ' + message.role) -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt and messages and messages[-1].role != 'tool' -%}
  {{- '<｜Assistant｜>' + ('<think>' if thinking else '</think>') -}}
{%- endif -%}
)jinja";

// Every turn names its role and ends in <|im_end|>; no BOS.
constexpr std::string_view kKimiK2 = R"jinja(
{%- if tools -%}
  {{- '<|im_system|>tool_declare<|im_middle|>' + (tools | tojson(separators=(',', ':'))) + '<|im_end|>' -}}
{%- endif -%}
{%- if not messages or messages[0].role != 'system' -%}
  {{- '<|im_system|>system<|im_middle|>You are Kimi, an AI assistant created by Moonshot AI.<|im_end|>' -}}
{%- endif -%}
{%- for message in messages -%}
  {%- set name = message.name or message.role -%}
  {%- if message.role == 'user' -%}
    {{- '<|im_user|>' + name + '<|im_middle|>' + message.content -}}
  {%- elif message.role == 'assistant' -%}
    {{- '<|im_assistant|>' + name + '<|im_middle|>' + (message.content or '') -}}
    {%- if message.tool_calls -%}
      {{- '<|tool_calls_section_begin|>' -}}
      {%- for call in message.tool_calls -%}
        {%- set arguments = call.function.arguments -%}
        {{- '<|tool_call_begin|>' + (call.id or 'functions.' ~ call.function.name ~ ':' ~ loop.index0) -}}
        {{- '<|tool_call_argument_begin|>' + (arguments if arguments is string else arguments | tojson) -}}
        {{- '<|tool_call_end|>' -}}
      {%- endfor -%}
      {{- '<|tool_calls_section_end|>' -}}
    {%- endif -%}
  {%- elif message.role == 'tool' -%}
    {{- '<|im_system|>' + name + '<|im_middle|>## Return of ' ~ message.tool_call_id ~ '\n' ~ message.content -}}
  {%- elif message.role == 'system' -%}
    {{- '<|im_system|>' + name + '<|im_middle|>' + message.content -}}
  {%- else -%}
    {{- raise_exception('the kimi-k2 template has no role ' + message.role) -}}
  {%- endif -%}
  {{- '<|im_end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- '<|im_assistant|>assistant<|im_middle|>' -}}
{%- endif -%}
)jinja";

constexpr Builtin kBuiltins[] = {{"deepseek-v2", kDeepSeekV2},
                                 {"deepseek-v3", kDeepSeekV3},
                                 {"deepseek-r1", kDeepSeekR1},
                                 {"deepseek-v3.1", kDeepSeekV31},
                                 {"kimi-k2", kKimiK2}};

}  // namespace

std::optional<std::string_view> builtin_template(std::string_view name) {
  for (const Builtin& b : kBuiltins)
    if (b.name == name) return b.source;
  return std::nullopt;
}

std::vector<std::string_view> builtin_template_names() {
  std::vector<std::string_view> names;
  for (const Builtin& b : kBuiltins) names.push_back(b.name);
  return names;
}

}  // namespace fathom
