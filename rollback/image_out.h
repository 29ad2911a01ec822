// Writing a snapshot to an image directory: what the engine has, as image::write_image wants it.
//
// The task runs on meanwhile, and so does its keeper: a child process of the keeper's does the writing and answers the
// client itself. The pages stay in the store until it is done (Engine::lease).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "image/write.h"
#include "rollback/snapshot.h"
#include "tracking/page_store.h"

namespace relive::rollback {

// A snapshot with its pages. All of it belongs to the engine.
struct SnapshotParts {
  const Snapshot* snapshot = nullptr;
  std::vector<const tracking::PageStore*> stores;  // as Snapshot::parts
};

// Writes it from this process. `directory` as for image::write_image. Refused before anything is written: trees with
// a task whose parent is outside, with tasks that share their memory, and what image/ has no place for.
Result<image::WriteReport> write_snapshot(const SnapshotParts& parts, const std::string& directory,
                                          const image::Progress& progress);

// A child process that writes an image and talks to the client at `connection`: image::Progress and the answer.
struct ImageWriter {
  UniqueFd pidfd;
  int pid = 0;
  std::uint64_t lease = 0;  // Engine::lease
};
// Starts one; refused as write_snapshot. The connection is its own from then on.
Result<ImageWriter> start_image_writer(const SnapshotParts& parts, const std::string& directory, int connection,
                                       const std::string& fault);

}  // namespace relive::rollback
