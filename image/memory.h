// mm-PID.img: the address space.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "image/files.h"
#include "image/image.h"

namespace relive::image {

// Shared memory without a file, by what the kernel tells of it; numbers of pagemap-shmem files.
struct ObjectNumbers {
  std::map<model::FileIdentity, std::uint32_t> numbers;
};

void memory_to(const ImagedTask& task, FileWriting& files, ObjectNumbers& objects, pb::Memory& to,
               pb::ExtraTask& extra);

// A mapping of shared memory or of a memfd: its pages are those of an object.
struct ObjectUse {
  std::uint32_t object = 0;
  std::size_t mapping = 0;  // index
};
// Checks that the mappings are ascending, disjoint, in user space and page-aligned, and that every id is resolved.
std::vector<ObjectUse> memory_from(const pb::Memory& from, const pb::ExtraTask* extra, const FileReading& files,
                                   ImagedTask& task);

}  // namespace relive::image
