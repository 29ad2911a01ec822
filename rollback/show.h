// What `relive show` tells about a snapshot: its model, reduced to what people read. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "image/image.h"
#include "model/task.h"
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

struct ShowReport {
  SnapshotInfo info;
  std::vector<ShownThread> threads;
  std::vector<ShownMapping> mappings;
  std::vector<ShownDescriptor> descriptors;
  std::vector<ShownValue> process;
};

// What can be said about a task of an image, as of a snapshot.
SnapshotInfo image_info(const image::ImagedTask& task);

ShowReport show(const SnapshotInfo& info, const model::Task& task);

}  // namespace relive::rollback
