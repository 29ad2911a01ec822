// An image on disk as a snapshot: the value that the engine goes back to. The counterpart of image_out.h.
//
// A snapshot of a living tree holds its files and has its pages in the store; what comes from an image has neither. The
// files are found, or made again, once it is planned which of them are missing (image_files.h); the pages are compared
// where they lie, and only those that differ go into the store (image_pages.h). All else is the same way.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "image/finding.h"
#include "image/image.h"
#include "rollback/snapshot.h"
#include "rollback/way_back.h"

namespace relive::rollback {

// An image that is to be applied.
struct Arrival {
  image::Image image;
  Snapshot snapshot;               // without holds and pages
  std::vector<std::size_t> tasks;  // index in image.tasks, as snapshot.tree.tasks
  struct Source {
    std::size_t task = 0;  // of image.tasks
    std::size_t file = 0;  // index of the open file there
  };
  std::vector<Source> files;       // as snapshot.tree.descriptors.open_files
  std::vector<std::string> notes;  // what was found, for people
};

// Reads and checks the image: everything that is wrong with it is in `findings`, and then nothing may be done with it.
// `root`: the task that it must be of; nothing: whichever.
Result<std::unique_ptr<Arrival>> read_arrival(const std::string& directory, std::optional<model::Pid> root,
                                              image::Findings& findings);

// The tasks of an image as a snapshot. Pure.
void snapshot_of(Arrival& arrival);

// What an image does not tell stays as the living tree has it.
void complete(Arrival& arrival, const Living& living);

// For a tree of which nothing lives, and which relive forks: what it had of the world around it, it has of relive's.
// Tasks whose parent is none of it become children of relive's; what was in a group or a session that another task had
// begun is in relive's, and without that one's terminal. Each is told in arrival.notes.
void bring_home(Arrival& arrival, const model::Forker& relive);

}  // namespace relive::rollback
