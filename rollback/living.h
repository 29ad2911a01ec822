// The living tree as one value: capture of every family, in the order in which they are cheap.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "capture/threads.h"
#include "model/task.h"
#include "parasite/session.h"
#include "rollback/member.h"
#include "rollback/stopwatch.h"

namespace relive::rollback {

// Reads the visited task, but for its descriptors, which belong to the tree (capture/descriptors.h).
// `maps_text`: /proc/PID/maps as it is now; used where `known` is given.
// ErrorKind::refused, by name, for what no family can describe.
Result<model::Task> read_task(parasite::Visit& visit, const KnownMemory* known, std::string_view maps_text,
                              capture::Depth depth, Stopwatch& stopwatch);

}  // namespace relive::rollback
