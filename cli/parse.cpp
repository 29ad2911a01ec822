#include "cli/parse.h"

#include "cli/cgroup.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <deque>

#include "base/number.h"
#include "client/session.h"

namespace relive::cli {

namespace {

std::string join(const std::vector<std::string>& words, std::string_view separator) {
  std::string out;
  for (const auto& word : words) out += (out.empty() ? "" : std::string(separator)) + word;
  return out;
}

std::unexpected<Error> usage_error(const Command& command, std::string what) {
  return fail(ErrorKind::usage, std::move(what), fmt::format("see: relive {} --help", command.name));
}

// Gives the words their names: required ones always, the others from the left as far as the words reach.
Result<void> name_positionals(const Command& command, const std::vector<std::string>& given, Words& words) {
  auto declared = command.positionals;
  if (words.has("--cgroup")) {
    std::erase_if(declared, [](const Positional& positional) { return positional.name == "PID"; });
    words.set("PID", std::to_string(RELIVE_TRY(root_of_cgroup(words.get("--cgroup"))).value));
  }
  auto required = static_cast<std::size_t>(std::ranges::count_if(declared, &Positional::required));
  if (given.size() > declared.size())
    return usage_error(command, fmt::format("'{}' is one word too many", given[declared.size()]));
  std::size_t spare = given.size() < required ? 0 : given.size() - required;
  std::size_t next = 0;
  for (const auto& positional : declared) {
    if (!positional.required && spare == 0) continue;
    if (!positional.required) --spare;
    if (next == given.size()) return usage_error(command, positional.name + " is missing");
    words.set(positional.name, given[next++]);
  }
  return {};
}

struct Bound {
  const Option* option;
  std::vector<std::string> values;
  CLI::Option* parsed;
};

Result<Call> parse_with_cli11(const Command& command, std::span<const std::string> arguments) {
  CLI::App app;
  app.set_help_flag();
  app.allow_extras(false);
  Call call;
  app.add_flag("--json", call.json);
  app.add_flag("-h,--help", call.help);
  std::deque<Bound> bound;
  for (const auto& option : command.options) {
    auto& one = bound.emplace_back(Bound{&option, {}, nullptr});
    one.parsed = option.value.empty() ? app.add_flag(option.name)
                                      : app.add_option(option.name, one.values)->allow_extra_args(false)->take_all();
  }
  std::vector<std::string> positionals;
  app.add_option("WORDS", positionals);

  std::vector<std::string> reversed(arguments.rbegin(), arguments.rend());  // as CLI11 wants them
  app.parse(reversed);
  if (call.help) return call;
  for (auto& one : bound) {
    const bool given = one.parsed->count() > 0;
    if (!given && one.option->required)
      return usage_error(command, fmt::format("{} {} is missing", one.option->name, one.option->value));
    if (!given) continue;
    if (one.values.empty()) one.values.emplace_back();  // a flag
    const auto& choices = one.option->choices;
    const std::string& value = one.values.back();
    if (!choices.empty() && std::ranges::find(choices, value) == choices.end())
      return usage_error(command, fmt::format("{} '{}' is none of: {}", one.option->name, value, join(choices, ", ")));
    call.words.set(one.option->name, one.values);
  }
  RELIVE_TRY(name_positionals(command, positionals, call.words));
  return call;
}

void add_table(std::string& out, const std::vector<std::pair<std::string, std::string>>& rows) {
  std::size_t width = 0;
  for (const auto& [left, right] : rows) width = std::max(width, left.size());
  for (const auto& [left, right] : rows) out += fmt::format("  {:<{}}  {}\n", left, width, right);
}

std::string_view group_title(Group group) {
  switch (group) {
    case Group::go_back:
      return "To go back";
    case Group::look:
      return "To look";
    case Group::leave:
      return "To leave";
    case Group::machine:
      return "This machine";
    case Group::hidden:
      return "";
  }
  return "";
}

constexpr std::string_view kExitCodes =
    "Exit codes: 0 done, 1 nothing was changed, 2 usage, 3 task left stopped or killed, 4 unsupported here\n";

void add_examples(std::string& out, const std::vector<Example>& examples) {
  for (const auto& example : examples) out += fmt::format("  # {}\n  {}\n", example.intent, example.command);
}

}  // namespace

std::string Words::get(std::string_view name) const {
  const auto found = values_.find(name);
  return found == values_.end() ? std::string{} : found->second.back();
}

std::vector<std::string> Words::all(std::string_view name) const {
  const auto found = values_.find(name);
  return found == values_.end() ? std::vector<std::string>{} : found->second;
}

Result<model::Pid> Words::pid() const {
  const std::string text = get("PID");
  const auto pid = parse_number<pid_t>(text);
  if (!pid || *pid <= 0)
    return fail(ErrorKind::usage, fmt::format("'{}' is not a process id", text),
                "PID is a positive number, as ps(1) shows it");
  return model::Pid{*pid};
}

Result<std::string> Words::snapshot_name(std::string_view word) const { return client::snapshot_name(get(word)); }

Result<Call> parse(const Command& command, std::span<const std::string> arguments) try {
  return parse_with_cli11(command, arguments);
} catch (const CLI::ExtrasError& error) {
  return usage_error(command,
                     fmt::format("unknown option: {}",
                                 std::string_view(error.what()).substr(std::string_view(error.what()).rfind(' ') + 1)));
} catch (const CLI::Error& error) {
  return usage_error(command, error.what());
}

std::string usage_line(const Command& command, std::string_view program) {
  std::string out(program);
  for (const auto& option : command.options)
    if (option.required) out += fmt::format(" {} {}", option.name, option.value);
  for (const auto& positional : command.positionals)
    out += positional.required ? " " + positional.name : " [" + positional.name + "]";
  return out + " [OPTIONS]";
}

std::string help_text(const Command& command, std::string_view program) {
  std::string out =
      fmt::format("{}\n\nUsage: {}\n\n{}\n", command.summary, usage_line(command, program), command.description);
  std::vector<std::pair<std::string, std::string>> rows;
  for (const auto& positional : command.positionals) rows.emplace_back(positional.name, positional.help);
  if (!rows.empty()) out += "\nArguments:\n";
  add_table(out, rows);
  rows.clear();
  for (const auto& option : command.options)
    rows.emplace_back(
        option.value.empty()
            ? option.name
            : fmt::format("{} {}", option.name, option.choices.empty() ? option.value : join(option.choices, "|")),
        option.help);
  rows.emplace_back("--json", "one JSON object on stdout, errors too");
  rows.emplace_back("-h, --help", "this text");
  out += "\nOptions:\n";
  add_table(out, rows);
  out += fmt::format("\n{}", kExitCodes);
  if (!command.examples.empty()) out += "\nExamples:\n";
  add_examples(out, command.examples);
  return out;
}

std::string program_help_text(const std::vector<Command>& commands) {
  std::string out =
      "relive takes a living process back to an earlier state, in place: same pid, same parent, milliseconds.\n\n"
      "Usage: relive COMMAND [OPTIONS]\n";
  for (const Group group : {Group::go_back, Group::look, Group::leave, Group::machine}) {
    std::vector<std::pair<std::string, std::string>> rows;
    for (const auto& command : commands)
      if (command.group == group) rows.emplace_back(command.name, command.summary);
    out += fmt::format("\n{}:\n", group_title(group));
    add_table(out, rows);
  }
  out += "\nEvery command takes --json and --help. `relive --version` tells the release.\n";
  out += kExitCodes;
  out += "\nExamples:\n";
  add_examples(out, {{"remember a state", "relive snapshot 1234 --name before"},
                     {"see what has changed since", "relive diff before 1234"},
                     {"go back to it, as often as you like", "relive rollback --to before 1234"},
                     {"let go of the process", "relive drop --all 1234"}});
  return out;
}

}  // namespace relive::cli
