// What a command is: its words declared once, as data. The parser, --help and the list of commands come from here.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "cli/exit_code.h"
#include "cli/output.h"
#include "model/ids.h"

namespace relive::cli {

struct Positional {
  std::string name;  // "PID"
  std::string help;
  bool required = true;  // those that are not are filled from the left when there are words enough
};

struct Option {
  std::string name;   // "--name"
  std::string value;  // "NAME"; empty: a flag
  std::string help;
  bool required = false;
  std::vector<std::string> choices;  // the values it may have; empty: any
};

struct Example {
  std::string intent;  // "go back, and see what would be done first"
  std::string command;
};

// The words of one call, checked against the declaration.
class Words {
 public:
  void set(std::string name, std::string value) { set(std::move(name), std::vector{std::move(value)}); }
  // REQUIRES: one value at least.
  void set(std::string name, std::vector<std::string> values) { values_[std::move(name)] = std::move(values); }
  [[nodiscard]] bool has(std::string_view name) const { return values_.find(name) != values_.end(); }
  // The value of an option or positional, the last one if it was given several times; empty if it was not given.
  [[nodiscard]] std::string get(std::string_view name) const;
  // All of them, in their order.
  [[nodiscard]] std::vector<std::string> all(std::string_view name) const;
  // "PID" as a number. ErrorKind::usage if it is none.
  [[nodiscard]] Result<model::Pid> pid() const;
  // "SNAPSHOT", "--to" or "--name" as a name. ErrorKind::usage where no snapshot can be called that.
  [[nodiscard]] Result<std::string> snapshot_name(std::string_view word) const;

 private:
  std::map<std::string, std::vector<std::string>, std::less<>> values_;
};

enum class Group : std::uint8_t { go_back, look, leave, machine, hidden };

struct Command {
  std::string name;
  Group group = Group::look;
  std::string summary;      // one line, no full stop
  std::string description;  // a paragraph for --help
  std::vector<Positional> positionals;
  std::vector<Option> options;  // --json and --help are every command's
  std::vector<Example> examples;
  // Carries it out and prints. An Error is printed by the caller.
  Result<ExitCode> (*run)(const Words& words, Output& output) = nullptr;
};

// One per file.
Command snapshot_command();
Command rollback_command();
Command diff_command();
Command list_command();
Command show_command();
Command drop_command();
Command doctor_command();
Command keeper_command();
Command apply_command();
Command check_command();

// All of them, in the order of the help.
const std::vector<Command>& commands();

// What main() does: parses, runs, prints. `started_ns`: CLOCK_MONOTONIC at the start of main.
int run_program(int argc, char** argv, std::uint64_t started_ns);

}  // namespace relive::cli
