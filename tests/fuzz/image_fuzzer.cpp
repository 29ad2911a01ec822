// The reader of images, and `check`: whatever the bytes are, reading ends, within bounds, and what is called whole can
// be looked at to its last page. An input is a sequence of files (tests/unit/image_sample.h: unpack).

#include <cstdint>
#include <cstdlib>

#include "image/machine.h"
#include "image/read.h"
#include "unit/image_sample.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace relive;
  const sample::Files files = sample::unpack(std::as_bytes(std::span(data, size)));
  const auto source = image::in_memory(files);
  image::Findings findings;
  const image::Image image = image::read_image(*source, findings);
  image::Findings machine;
  image::check_machine(image, machine);
  image::check_named_files(image, machine);
  for (const image::Finding& finding : findings.all())
    if (text(finding).empty()) std::abort();
  if (findings.any_damage()) return 0;
  for (const image::ImagedTask& task : image.tasks) {
    std::uint64_t before = 0;
    for (const image::PageRun& run : task.pages) {
      if (run.address < before || run.pages == 0) std::abort();
      before = run.range().end;
      std::vector<std::byte> page(kPageSize);
      if (!image.page_files.read(run, run.pages - 1, page)) std::abort();
    }
    for (const model::Descriptor& descriptor : task.descriptors.descriptors)
      if (descriptor.open_file >= task.descriptors.open_files.size()) std::abort();
  }
  return 0;
}
