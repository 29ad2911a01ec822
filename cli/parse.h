// The words of a call against the declaration of a command. CLI11 does the splitting; the texts are ours.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "cli/command.h"

namespace relive::cli {

struct Call {
  Words words;
  bool help = false;
  bool json = false;
};

// Errors: usage, naming the word that is wrong or missing. `program` is "relive rollback" or "rollback".
Result<Call> parse(const Command& command, std::span<const std::string> arguments);

// The text of --help for one command and for the whole program. Pure.
std::string help_text(const Command& command, std::string_view program);
std::string program_help_text(const std::vector<Command>& commands);
// "relive rollback --to SNAPSHOT PID [OPTIONS]"
std::string usage_line(const Command& command, std::string_view program);

}  // namespace relive::cli
