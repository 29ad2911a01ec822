#include "capture/fdinfo.h"
#include "capture/opened.h"

namespace relive::capture {

Result<model::FileObject> read_signal_file(const Opened& opened) {
  return model::FileObject(RELIVE_TRY(parse_signal_file(RELIVE_TRY(opened.fdinfo()))));
}

Result<model::SignalFile> parse_signal_file(std::string_view fdinfo) {
  const auto mask = word_after(fdinfo, "sigmask:");
  if (!mask) return fail(ErrorKind::system, "fdinfo of a signalfd tells no mask");
  return model::SignalFile{.mask = number_in(*mask, 16)};
}

}  // namespace relive::capture
