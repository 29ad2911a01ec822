// core-TID.img: threads, and what a task is beside memory and descriptors.
#pragma once

#include <string>

#include "image/finding.h"
#include "image/image.h"
#include "image/proto/core.pb.h"
#include "image/proto/extra.pb.h"

namespace relive::image {

// The thread's part of an entry, and what has no place in it.
void to_entry(const model::Thread& thread, pb::Core& core, pb::ExtraThread& extra);
// What every entry has.
void begin_core(pb::Core& core);
// The task's part, in the leader's entry.
void to_entry(const ImagedTask& task, pb::TaskPart& part, pb::ExtraTask& extra);

// `extra` may be null. `file` is the name for findings.
model::Thread thread_from(std::uint32_t tid, const pb::Core& core, const pb::TaskPart* task,
                          const pb::ExtraThread* extra, const std::string& file, Findings& findings);
void process_from(const pb::TaskPart& part, const pb::ExtraTask* extra, const std::string& file, ImagedTask& task,
                  Findings& findings);

}  // namespace relive::image
