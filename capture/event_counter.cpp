#include "capture/fdinfo.h"
#include "capture/opened.h"

namespace relive::capture {

Result<model::FileObject> read_event_counter(const Opened& opened) {
  return model::FileObject(RELIVE_TRY(parse_event_counter(RELIVE_TRY(opened.fdinfo()))));
}

Result<model::EventCounter> parse_event_counter(std::string_view fdinfo) {
  const auto count = word_after(fdinfo, "eventfd-count:");
  if (!count) return fail(ErrorKind::system, "fdinfo of an eventfd tells no count");
  model::EventCounter counter;
  counter.count = number_in(*count, 16);
  if (const auto id = word_after(fdinfo, "eventfd-id:")) counter.id = number_in(*id, 10);
  const auto semaphore = word_after(fdinfo, "eventfd-semaphore:");
  counter.semaphore_told = semaphore.has_value();
  if (semaphore) counter.semaphore = number_in(*semaphore, 10) != 0;
  return counter;
}

}  // namespace relive::capture
