#include <fmt/format.h>

#include <algorithm>
#include <exception>

#include "cli/command.h"
#include "cli/parse.h"

namespace relive::cli {

namespace {

std::string_view base_name(std::string_view path) { return path.substr(path.rfind('/') + 1); }

const Command* find(std::string_view name) {
  const auto found = std::ranges::find(commands(), name, &Command::name);
  return found == commands().end() ? nullptr : &*found;
}

int finish(Output& output, std::string_view program, ExitCode code) {
  if (const auto flushed = output.flush(); !flushed) {
    output.error(program, flushed.error());
    return static_cast<int>(code == ExitCode::done ? ExitCode::untouched : code);
  }
  return static_cast<int>(code);
}

int fail_program(Output& output, std::string_view program, const Error& error) {
  output.error(program, error);
  return finish(output, program, exit_code(error.kind));
}

int run_command(const Command& command, std::string_view program, const std::vector<std::string>& arguments,
                std::uint64_t started_ns) {
  const auto call = parse(command, arguments);
  Output output(call ? call->json : std::ranges::find(arguments, "--json") != arguments.end(), started_ns);
  if (!call) return fail_program(output, program, call.error());
  if (call->help) {
    output.line(help_text(command, program));
    return finish(output, program, ExitCode::done);
  }
  const auto code = command.run(call->words, output);
  if (!code) return fail_program(output, program, code.error());
  return finish(output, program, *code);
}

int run_relive(const std::vector<std::string>& arguments, std::uint64_t started_ns) {
  Output output(std::ranges::find(arguments, "--json") != arguments.end(), started_ns);
  if (arguments.empty()) {
    output.diagnostic(program_help_text(commands()));
    return static_cast<int>(ExitCode::usage);
  }
  const std::string& first = arguments.front();
  if (first == "--help" || first == "-h" || first == "help") {
    output.line(program_help_text(commands()));
    return finish(output, "relive", ExitCode::done);
  }
  if (first == "--version") {
    output.line("relive " RELIVE_VERSION);
    return finish(output, "relive", ExitCode::done);
  }
  const Command* command = find(first);
  if (command == nullptr)
    return fail_program(output, "relive",
                        Error{ErrorKind::usage, fmt::format("no command '{}'", first), 0, "see: relive --help", {}});
  return run_command(*command, "relive " + command->name, {arguments.begin() + 1, arguments.end()}, started_ns);
}

}  // namespace

namespace {

// A process can be named by its control group wherever it can be named.
std::vector<Command> with_cgroup(std::vector<Command> all) {
  for (Command& command : all)
    if (command.group != Group::hidden && std::ranges::count(command.positionals, "PID", &Positional::name) != 0)
      command.options.push_back({"--cgroup",
                                 "PATH",
                                 "in place of PID: the one process in this control group whose parent is not in it",
                                 false,
                                 {}});
  return all;
}

}  // namespace

const std::vector<Command>& commands() {
  static const std::vector<Command> all =
      with_cgroup({snapshot_command(), rollback_command(), apply_command(), diff_command(), list_command(),
                   show_command(), check_command(), drop_command(), doctor_command(), keeper_command()});
  return all;
}

int run_program(int argc, char** argv, std::uint64_t started_ns) try {
  const std::vector<std::string> arguments(argv + std::min(argc, 1), argv + argc);
  const std::string_view name = argc > 0 ? base_name(argv[0]) : "relive";
  for (const std::string_view other : {"rollback", "apply"})
    if (name == other) return run_command(*find(other), other, arguments, started_ns);
  return run_relive(arguments, started_ns);
} catch (const std::exception& error) {  // out of memory, or a library's: nobody is frozen by this process
  Output output(false, started_ns);
  output.error("relive", Error{ErrorKind::system, error.what(), 0, {}, {}});
  return static_cast<int>(ExitCode::untouched);
}

}  // namespace relive::cli
