#include "diff/named_pipes.h"

#include <fmt/format.h>

#include <algorithm>

#include "diff/sockets.h"

namespace relive::diff {

using model::NamedPipe;

namespace {

// The open files of a table that lead to this pipe, in order.
std::vector<std::size_t> ends_of(const Table& table, model::FileIdentity identity) {
  std::vector<std::size_t> ends;
  for (std::size_t index = 0; index < table.files(); ++index) {
    const auto* const pipe = table.as<NamedPipe>(index);
    if (pipe != nullptr && pipe->identity == identity && !table.numbers(index).empty()) ends.push_back(index);
  }
  return ends;
}

// What is in the pipe, if an end of the table tells.
const NamedPipe* contents(const Table& table, model::FileIdentity identity) {
  for (const std::size_t index : ends_of(table, identity)) {
    const auto* const pipe = table.as<NamedPipe>(index);
    if (pipe->reads && !pipe->outside) return pipe;
  }
  return nullptr;
}

bool task_writes(const Table& table, model::FileIdentity identity) {
  return std::ranges::any_of(ends_of(table, identity),
                             [&](std::size_t index) { return table.as<NamedPipe>(index)->writes; });
}

}  // namespace

bool can_become(const NamedPipe& wanted, const NamedPipe& living) {
  return wanted.identity == living.identity && wanted.reads == living.reads && wanted.writes == living.writes;
}

bool can_stay(const NamedPipe& wanted, const NamedPipe& living) {
  return !wanted.awaits_writer || living.awaits_writer;
}

std::optional<RefillNamedPipe> refill_named_pipe(std::size_t wanted, const Table& wanted_table,
                                                 const Table& living_table, const Matches& matches) {
  const NamedPipe& pipe = *wanted_table.as<NamedPipe>(wanted);
  const auto ends = ends_of(wanted_table, pipe.identity);
  if (pipe.outside || ends.front() != wanted) return std::nullopt;
  const NamedPipe* const before = contents(wanted_table, pipe.identity);
  const NamedPipe* const now = contents(living_table, pipe.identity);
  static const NamedPipe kEmpty;
  const NamedPipe& filled = before == nullptr ? kEmpty : *before;
  if (now != nullptr && now->bytes == filled.bytes && now->pieces == filled.pieces && now->capacity == pipe.capacity)
    return std::nullopt;
  const auto reader =
      std::ranges::find_if(ends, [&](std::size_t index) { return wanted_table.as<NamedPipe>(index)->reads; });
  // Of an empty one that nobody reads nothing has to be taken out, if nobody could put anything in.
  if (reader == ends.end() && matches.living_of[wanted] && now == nullptr) {
    const auto& living = *living_table.as<NamedPipe>(*matches.living_of[wanted]);
    if (living.unseen == 0 && !living.outside && living.capacity == pipe.capacity) return std::nullopt;
  }
  const std::size_t file = reader == ends.end() ? wanted : *reader;
  const auto living = matches.living_of[file];
  return RefillNamedPipe{
      .file = file,
      .from = living ? living_table.number_in(*living, wanted_table.home(file)) : std::nullopt,
      .to = wanted_table.at_home(file),
      .through_helper = !filled.bytes.empty() || reader == ends.end(),
  };
}

std::vector<std::string> changes(const NamedPipe& wanted, const NamedPipe& living) {
  std::vector<std::string> out;
  if (wanted.outside) return out;
  if (wanted.reads && !living.outside && (wanted.bytes != living.bytes || wanted.pieces != living.pieces))
    out.push_back(bytes_text(wanted.bytes, living.bytes));
  if (wanted.unseen != living.unseen) out.push_back(fmt::format("unread bytes {} -> {}", wanted.unseen, living.unseen));
  if (wanted.capacity != living.capacity)
    out.push_back(fmt::format("capacity {} -> {}", wanted.capacity, living.capacity));
  if (wanted.awaits_writer && !living.awaits_writer) out.emplace_back("a writer has come since");
  return out;
}

std::string note(std::size_t wanted, const Table& wanted_table, const Table& living_table, const Matches& matches) {
  const NamedPipe& pipe = *wanted_table.as<NamedPipe>(wanted);
  if (pipe.outside) {
    return matches.living_of[wanted] ? "leads out of the task; kept with what is in it"
                                     : "leads out of the task; opened anew, with what is in it now";
  }
  if (pipe.awaits_writer && task_writes(living_table, pipe.identity) &&
      (!matches.living_of[wanted] || !can_stay(pipe, *living_table.as<NamedPipe>(*matches.living_of[wanted]))))
    return "no writer had come yet, and the task itself has written since: poll(2) shows that it is gone";
  return {};
}

}  // namespace relive::diff
