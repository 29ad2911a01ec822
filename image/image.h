// An image as a value: tasks in the model, and where their pages are.
//
// The same value is written and read. A tree is a list of tasks; what they share is told by equal ids: an open file
// that two tables lead to has one id in both, tasks with one memory have one memory id.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "image/pages.h"
#include "model/descriptor.h"
#include "model/task.h"

namespace relive::image {

enum class TaskState : std::uint8_t { running = 1, dead = 2, stopped = 3, zombie = 6 };

// Of a task: equal numbers in two tasks, one object (CLONE_VM, CLONE_FILES, CLONE_FS, CLONE_SIGHAND). 0: one of its
// own.
struct SharedObjects {
  std::uint32_t memory = 0;
  std::uint32_t files = 0;
  std::uint32_t fs = 0;
  std::uint32_t signal_actions = 0;
  bool operator==(const SharedObjects&) const = default;
};

struct ImagedTask {
  model::Task task;  // process.parent is its parent in the tree, 0 for the root; its table is number 0
  model::DescriptorTable
      descriptors;  // its own: the tables of other tasks are theirs (`file_ids` tells what is shared)
  TaskState state = TaskState::running;
  int exit_signal = 17;         // SIGCHLD; what its parent is sent at its end
  std::uint32_t exit_code = 0;  // of a zombie, as wait(2) tells it
  SharedObjects shared;
  // Beside descriptors.open_files: the id of each in the whole image, not 0; equal ids in two tasks, one open file. To
  // be written: empty, and each is one of its own.
  std::vector<std::uint32_t> file_ids;
  std::vector<std::uint64_t> auxiliary_vector;  // getauxval(3), in pairs
  // Read: all pages with contents of their own, by address; those of shared memory too. Of tasks with one memory the
  // first has them.
  PageRuns pages;
  PageRuns vdso;  // read: what the vDSO was, if it is told
  // Read: contents of open memfds: index of the open file -> object of Image::objects; of mapped ones: begin of the
  // mapping -> object.
  std::map<std::size_t, std::uint32_t> memory_files;
  std::map<std::uint64_t, std::uint32_t> mapped_objects;
  // Read: begin of a mapping of a deleted file -> its id, as in Image::ghosts.
  std::map<std::uint64_t, std::uint32_t> mapped_ghosts;
  // Read: shared mappings of files of whose contents the image tells nothing.
  std::vector<AddressRange> untold;
};

// Shared memory and memfds, by the number of their pagemap-shmem-N.img. Addresses are bytes into the object.
struct SharedObject {
  PageRuns pages;
};

// What was in a deleted file.
struct Ghost {
  std::uint32_t mode = 0;
  std::uint64_t bytes = 0;  // of data in the image
  std::uint64_t size = 0;   // of the file
  // Where they are: bytes of the ghost-file, which is one of Image::page_files, and of the deleted one. The rest of
  // that is holes.
  struct Piece {
    std::uint64_t position = 0;
    std::uint64_t offset = 0;
    std::uint64_t bytes = 0;
  };
  std::uint32_t file = 0;
  std::vector<Piece> pieces;
};

// A file that must be there where the image is applied.
struct NamedFile {
  std::uint32_t id = 0;
  std::string path;
  std::uint32_t mode = 0;             // 0: not told
  std::optional<std::uint64_t> size;  // of regular files, if it is told
};

struct Image {
  std::vector<ImagedTask> tasks;  // parents first
  std::map<std::uint32_t, SharedObject> objects;
  std::map<std::uint32_t, Ghost> ghosts;  // by id of the file
  std::vector<NamedFile> named_files;
  PageFiles page_files;
  bool ours = false;  // relive's own files were there
};

}  // namespace relive::image
