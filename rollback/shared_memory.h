// Memory that several tasks of a tree share is saved and put back once, by the first of them.
#pragma once

#include <span>

#include "model/memory.h"
#include "model/task.h"
#include "tracking/page_map.h"

namespace relive::rollback {

// The parts of `memory` that are shared with one of `earlier`, which maps the same part of the same object and may
// write it.
tracking::Ranges put_back_by(std::span<const model::Task> earlier, const model::Memory& memory);

// `memory` without `ranges`: what tracking is to look at.
model::Memory own_part(const model::Memory& memory, const tracking::Ranges& ranges);

}  // namespace relive::rollback
