#include "model/memory.h"

#include <sys/mman.h>

namespace relive::model {

int Mapping::protection() const {
  return (readable ? PROT_READ : 0) | (writable ? PROT_WRITE : 0) | (executable ? PROT_EXEC : 0);
}

}  // namespace relive::model
