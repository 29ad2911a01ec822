// Named pipes: their part of diff/descriptors.h. Pure.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "diff/descriptors.h"
#include "diff/table.h"
#include "model/named_pipes.h"

namespace relive::diff {

// Is the living open file one of the same named pipe, opened in the same way?
[[nodiscard]] bool can_become(const model::NamedPipe& wanted, const model::NamedPipe& living);
// A reader that awaited its first writer cannot become that again; one that is opened anew may.
[[nodiscard]] bool can_stay(const model::NamedPipe& wanted, const model::NamedPipe& living);

// What puts the unread bytes and the capacity right; once a pipe, for the first of its wanted ends. Nothing where they
// are right, or belong to somebody outside as well.
[[nodiscard]] std::optional<RefillNamedPipe> refill_named_pipe(std::size_t wanted, const Table& wanted_table,
                                                               const Table& living_table, const Matches& matches);

// For people.
[[nodiscard]] std::vector<std::string> changes(const model::NamedPipe& wanted, const model::NamedPipe& living);
// What a rollback leaves as it is; empty where nothing.
[[nodiscard]] std::string note(std::size_t wanted, const Table& wanted_table, const Table& living_table,
                               const Matches& matches);

}  // namespace relive::diff
