#include "src/app/options.h"

#include <array>

namespace fathom {
namespace {

using enum Command;
using enum ValueKind;

constexpr std::array kCommandTable = std::to_array<CommandRow>({
    {chat, "chat", "[-m MODEL] [options]", "talk in the terminal"},
    {run, "run", "[-m MODEL] [options] [--] [PROMPT]", "one prompt (argument, file, or stdin), answer on stdout"},
    {tokenize, "tokenize", "[-m MODEL] [--format ids|count|json] [--input FILE.jsonl] [--special] [TEXT]",
     "text to token ids"},
    {inspect, "inspect", "MODEL [--json] [--tensors] [--plan [--ctx N]]",
     "what is in a checkpoint (headers only); --plan: where it would go here"},
    {models, "models", "[--json]", "what the HF cache holds: family, size, whether it is complete and fits here"},
    {verify, "verify", "MODEL [--quick|--values|--hash]", "prove a checkpoint is whole"},
    {bench, "bench", "[-m MODEL] [--json | --csv]", "prefill and decode speed"},
    {quantize, "quantize", "SRC DST", "BF16 checkpoint to FP8 128x128 checkpoint in the published layout"},
    {eval, "eval", "[-m MODEL] FILE", "perplexity, exact-match accuracy, log-probabilities"},
    {doctor, "doctor", "[--json]", "GPU, driver, memory, file system, terminal"},
    {completions, "completions", "bash|zsh|fish|man", "shell completions, and the manual page"},
    {help, "help", "[COMMAND|environment|exit-codes|files|formatting]", "help on a command or topic"},
});

constexpr CommandSet kGenerate = chat | run;
constexpr CommandSet kCompute = chat | run | bench | eval;
constexpr CommandSet kPlanned = kCompute | inspect;  // what takes part in the plan of memory

constexpr std::array kOptionTable = std::to_array<OptionRow>({
    // Everywhere
    {"model", 'm', text, "MODEL", "FATHOM_MODEL, else Minnow", kGlobal, "directory, ORG/NAME[@REV] in the HF cache, or alias"},
    {"backend", 0, choice, "auto|cuda|cpu", "auto", kGlobal, "where to run"},
    {"gpus", 0, text, "LIST", "most free memory", kGlobal, "ordinals of the GPUs to use"},
    {"gpu-memory", 0, size, "SIZE", "free minus 2 %", kGlobal, "device memory to use at most"},
    {"threads", 0, integer, "N", "physical cores", kGlobal, "CPU threads"},
    {"cache", 0, choice, "f32|bf16|fp8", "bf16", kGlobal, "type of the latent cache"},
    {"activations", 0, choice, "auto|f32|bf16|fp8", "auto", kGlobal, "rounding of the inputs of matrix products"},
    {"color", 0, choice, "auto|always|never", "auto", kGlobal, "colour on the terminal"},
    {"no-color", 0, flag, "", "", kGlobal, "same as --color=never"},
    {"quiet", 'q', flag, "", "", kGlobal, "errors only"},
    {"verbose", 'v', count, "", "", kGlobal, "plan, timings and notes on stderr; repeat for more"},
    {"config", 0, text, "FILE", "XDG path", kGlobal, "configuration file"},
    {"no-config", 0, flag, "", "", kGlobal, "read no configuration file"},
    {"help", 'h', flag, "", "", kGlobal, "this help"},
    {"version", 'V', flag, "", "", kGlobal, "version; with --json also the commit, CUDA and GPU architectures"},
    // What is asked
    {"system", 's', text, "TEXT", "none", kGenerate, "system prompt"},
    {"system-file", 0, text, "FILE", "none", kGenerate, "system prompt from a file"},
    {"file", 'f', list, "FILE", "", only(run), "text placed before the prompt, in order; - is stdin"},
    {"messages", 0, text, "FILE", "", only(run), "JSON array of {role, content}; excludes PROMPT"},
    {"batch", 0, text, "FILE", "", only(run), "JSONL of requests, one load for all"},
    {"raw", 0, flag, "", "", only(run), "no chat template; plain continuation"},
    {"ids", 0, text, "LIST|@FILE", "", run | eval, "the prompt is these token ids; eval: FILE.jsonl of {\"ids\": [...]}"},
    {"max-input", 0, size, "SIZE", "64MiB", kGenerate, "limit on stdin and prompt files"},
    {"template", 0, text, "NAME|FILE", "from the checkpoint", kGenerate, "chat template"},
    // How much and how it is sampled
    {"max-tokens", 'n', integer, "N", "model limit", kGenerate, "most new tokens, thinking included"},
    {"ctx", 0, integer, "N", "what fits, at most 32768", kPlanned, "context length"},
    {"temp", 0, number, "X", "generation_config.json", kGenerate, "temperature; 0 is greedy"},
    {"top-p", 0, number, "X", "generation_config.json", kGenerate, "nucleus sampling"},
    {"top-k", 0, integer, "N", "generation_config.json", kGenerate, "most probable tokens considered"},
    {"min-p", 0, number, "X", "0", kGenerate, "least probability relative to the best"},
    {"repeat-penalty", 0, number, "X", "generation_config.json", kGenerate, "divides logits of tokens seen"},
    {"presence-penalty", 0, number, "X", "0", kGenerate, "subtracted once from tokens seen"},
    {"frequency-penalty", 0, number, "X", "0", kGenerate, "subtracted per occurrence"},
    {"greedy", 0, flag, "", "", kGenerate, "same as --temp 0"},
    {"seed", 0, integer, "N", "random, reported", kGenerate, "64-bit seed"},
    {"stop", 0, list, "STRING", "", kGenerate, "ends the answer, not printed"},
    {"ignore-eos", 0, flag, "", "", kGenerate, "end-of-text tokens do not stop"},
    {"logprobs", 0, integer, "N", "", only(run), "with --json: log-probabilities and the N best of each token"},
    {"fail-on-length", 0, flag, "", "", only(run), "finish_reason length exits 7"},
    {"timeout", 0, duration, "DURATION", "none", only(run), "whole run"},
    // Thinking
    {"think", 0, flag, "", "", kGenerate, "ask the model to think"},
    {"no-think", 0, flag, "", "", kGenerate, "ask the model not to think"},
    {"think-budget", 0, integer, "N", "none", kGenerate, "close the thinking block after N tokens"},
    {"show-thinking", 0, choice, "auto|full|summary|hidden", "auto", kGenerate, "how thinking is shown"},
    {"hide-thinking", 0, flag, "", "", kGenerate, "same as --show-thinking=hidden"},
    // What comes out
    {"json", 0, flag, "", "", run | inspect | models | bench | doctor | eval | verify,
     "one JSON object on stdout, errors too"},
    {"jsonl", 0, flag, "", "", only(run), "one JSON object per event on stdout"},
    {"output", 'o', text, "FILE", "stdout", only(run), "write the answer to a file, whole or not at all; - is stdout"},
    {"no-stream", 0, flag, "", "", kGenerate, "print once, at the end"},
    {"stats", 0, flag, "", "", kGenerate, "timing line on stderr"},
    {"markdown", 0, choice, "never|auto", "never", kGenerate, "reserved"},
    {"unsafe-output", 0, flag, "", "", kGenerate, "pass control bytes to a terminal unchanged"},
    {"strict", 0, flag, "", "", only(run), "with --batch: stop at the first bad line"},
    {"no-input", 0, flag, "", "", only(run), "never ask anything: text that would have to be typed is an error"},
    // Conversations
    {"session", 0, text, "FILE", "none", kGenerate, "save and resume a conversation"},
    {"continue", 'c', flag, "", "", kGenerate, "resume the newest conversation"},
    {"no-history", 0, flag, "", "", kGenerate, "neither history nor conversations are read or saved"},
    // Loading and placement
    {"experts", 0, choice, "auto|gpu|host", "auto", kPlanned, "where routed experts live"},
    {"mmap", 0, flag, "", "", kCompute, "map shards (default on local disks)"},
    {"no-mmap", 0, flag, "", "", kCompute, "read shards into memory"},
    {"check", 0, choice, "quick|values|none", "quick", kCompute, "what is checked first; none is quick: sizes and headers always are"},
    // One command's own
    {"format", 0, choice, "ids|count|json", "ids", only(tokenize), "output"},
    {"input", 0, text, "FILE.jsonl", "", only(tokenize), "lines {\"text\": ...} in, {\"ids\": ...} out"},
    {"special", 0, flag, "", "", only(tokenize), "added tokens in the text match"},
    {"tensors", 0, flag, "", "", only(inspect), "list every tensor"},
    {"plan", 0, flag, "", "", only(inspect), "where it would go on this machine, and predicted tok/s"},
    {"quick", 0, flag, "", "", only(verify), "headers and sizes only"},
    {"values", 0, flag, "", "", only(verify), "scan for NaN, Inf and zero scales"},
    {"hash", 0, flag, "", "", only(verify), "compare SHA-256 of every file"},
    {"random-weights", 0, text, "CONFIG", "", only(bench), "random FP8 weights of this config.json"},
    {"csv", 0, flag, "", "", only(bench), "comma-separated values"},
    {"layers", 0, integer, "N", "all", only(bench), "with --random-weights: only the first N layers"},
    {"questions", 0, text, "FILE", "", only(eval), "exact-match accuracy on a JSONL of questions"},
    {"self-test", 0, flag, "", "", only(doctor), "run the CPU/GPU stage parity on this machine"},
});

}  // namespace

std::span<const CommandRow> command_table() { return kCommandTable; }
std::span<const OptionRow> option_table() { return kOptionTable; }

const CommandRow* find_command(std::string_view name) {
  for (const CommandRow& row : kCommandTable)
    if (row.name == name) return &row;
  return nullptr;
}

const CommandRow* find_command(Command command) {
  for (const CommandRow& row : kCommandTable)
    if (row.command == command) return &row;
  return nullptr;
}

const OptionRow* find_option(std::string_view long_name) {
  for (const OptionRow& row : kOptionTable)
    if (row.long_name == long_name) return &row;
  return nullptr;
}

bool takes_value(const OptionRow& row) { return row.kind != flag && row.kind != count; }

}  // namespace fathom
