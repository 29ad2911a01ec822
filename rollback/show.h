// What `relive show` tells about a snapshot: its model, reduced to what people read. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "image/image.h"
#include "model/tree.h"
#include "rollback/engine.h"

namespace relive::rollback {

struct ShownThread {
  model::Tid tid;
  std::string name;
  std::uint64_t instruction = 0;  // where it goes on
  std::uint64_t stack = 0;
  std::uint64_t blocked_signals = 0;  // bit N-1 is signal N
  std::uint64_t pending_signals = 0;  // how many
};

struct ShownMapping {
  AddressRange range;
  std::string access;  // "rw-p", as /proc/PID/maps writes it
  std::uint64_t offset = 0;
  std::string name;
};

struct ShownDescriptor {
  int fd = -1;
  std::string kind;  // "file", "pipe", "socket" ...
  std::string text;
  bool close_on_exec = false;
};

struct ShownValue {
  std::string name;
  std::string value;
};

struct ShownTask {
  model::Pid pid;
  model::Pid parent;
  std::string name;  // of its first thread
  std::vector<ShownThread> threads;
  std::vector<ShownMapping> mappings;
  std::vector<ShownDescriptor> descriptors;
  std::vector<ShownValue> process;
};

struct ShowReport {
  SnapshotInfo info;
  std::vector<ShownTask> tasks;  // the root first
};

ShowReport show(const SnapshotInfo& info, const model::Tree& tree);

// What can be said about a task of an image, as of a snapshot.
SnapshotInfo image_info(const image::ImagedTask& task);
ShowReport show(const image::ImagedTask& task);

}  // namespace relive::rollback
