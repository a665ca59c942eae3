// One look at every parameter and gradient of a plan, through the C interface that PyTorch keeps for compiled models.
//
// A gradient that autograd made has no Python object until somebody asks for it; looked at from here it never gets one. No torch
// headers: the functions come as addresses (`survey.py` finds them, and tries them out before it trusts them), and a tensor is what
// it is in every release: a pointer to its implementation. A reference to one is the address of that pointer, here the place in
// the Python object that holds it: `torch.utils.swap_tensors` puts another implementation there, and the old one may be gone.
//
// After a backward pass all this lies in memory that no cache knows, a dozen lines per tensor. Tensors are visited in blocks, one
// line of each after the other, so that the processor waits for many lines at once.

#include <stdint.h>
#include <string.h>

#include <vector>

namespace {

using Implementation = void*;
using Tensor = const Implementation*;  // what C++ calls `const at::Tensor&` and the C interface a handle
using Status = int32_t;                // not 0: an exception was caught

// The order of `survey.py`.
struct Torch {
    Tensor (*gradient)(Implementation);
    bool (*has_storage)(Implementation);
    void (*bump_version)(Tensor);
    Implementation undefined;
    Status (*data)(Tensor, void**);
    Status (*dim)(Tensor, int64_t*);
    Status (*sizes)(Tensor, const int64_t**);
    Status (*strides)(Tensor, const int64_t**);
    Status (*dtype)(Tensor, int32_t*);
    Status (*device_type)(Tensor, int32_t*);
    Status (*device_index)(Tensor, int32_t*);
    Status (*hold)(Tensor, void**);
    Status (*drop)(void*);
};

constexpr int64_t BLOCK = 32;

void fetch(const void* address) { __builtin_prefetch(address); }

void fetch_all(const void* implementation) {
    for (int line = 0; line < 3; ++line) fetch(static_cast<const char*>(implementation) + 64 * line);
}

// Where implementations have pointed to what they own so far. It is only fetched: being wrong costs time, nothing else.
enum Owned { STORAGE = 2, AUTOGRAD = 3, VERSION = 5 };
void fetch_owned(Implementation implementation, Owned what) { fetch(static_cast<void* const*>(implementation)[what]); }

// What a kernel must know of a tensor; `at` is its memory.
struct Form {
    int32_t dtype, device_type, device_index;
    int64_t dim;
    const int64_t *sizes, *strides;
    void* at;

    // What a tensor can change without moving to other memory.
    bool read_shape(const Torch& torch, Tensor tensor) {
        return !torch.dim(tensor, &dim) && !torch.sizes(tensor, &sizes) && !torch.strides(tensor, &strides) &&
               !torch.dtype(tensor, &dtype) && !torch.data(tensor, &at);
    }

    bool read(const Torch& torch, Tensor tensor) {
        if (!torch.has_storage(*tensor)) return false;  // sparse tensors have none; asking them for their memory is an exception
        return read_shape(torch, tensor) && !torch.device_type(tensor, &device_type) && !torch.device_index(tensor, &device_index);
    }

    bool same_device(const Form& form) const { return device_type == form.device_type && device_index == form.device_index; }

    bool same_shape(const Form& form) const { return dim == form.dim && !memcmp(sizes, form.sizes, 8 * dim); }

    // Whether place i of memory holds the same element. The stride of a dimension with one element says nothing.
    bool same_order(const Form& form) const {
        bool same = true;
        for (int64_t i = 0; i < dim; ++i) same &= sizes[i] == 1 || strides[i] == form.strides[i];
        return same;
    }

    // A stand-in for zeros, or what wraps other tensors, has no memory of its own.
    bool has_memory() const {
        bool empty = false;
        for (int64_t i = 0; i < dim; ++i) empty |= sizes[i] == 0;
        return at != nullptr || empty;
    }
};

constexpr int32_t NONE = -1;

struct Member {
    Tensor parameter;
    Implementation implementation;
    Form form;  // sizes and strides in `shapes` of the survey
    int32_t gradient_dtype;  // NONE: a gradient would be the first

    // Whether the parameter is as it was.
    bool stays(const Torch& torch) const {
        Form now;
        return now.read_shape(torch, parameter) && now.at == form.at && now.dtype == form.dtype && now.same_shape(form) &&
               !memcmp(now.strides, form.strides, 8 * form.dim);
    }

    bool accepts(const Torch& torch, Tensor gradient, Form& found) const {
        return found.read(torch, gradient) && found.dtype == gradient_dtype && found.same_device(form) && found.same_shape(form) &&
               found.same_order(form) && found.has_memory();
    }
};

// A state: its kernels know its memory.
struct Resident {
    Tensor tensor;
    Implementation implementation;
    void* at;
};

struct Survey {
    Torch torch;
    std::vector<Member> members;
    std::vector<Resident> residents;
    std::vector<int64_t> shapes;
    std::vector<void*> held;

    // Adds the present state of a parameter; false where it is not as kernels need it. `expected`: a gradient may come, of the
    // parameter's dtype if there is none now.
    bool add(Tensor parameter, bool expected) {
        Form form, gradient_form;
        if (!form.read(torch, parameter) || !form.has_memory()) return false;
        const Tensor gradient = torch.gradient(*parameter);
        Member member{parameter, *parameter, form, expected ? form.dtype : NONE};
        if (*gradient != torch.undefined &&
            (!expected || torch.dtype(gradient, &member.gradient_dtype) || !member.accepts(torch, gradient, gradient_form))) {
            return false;
        }
        shapes.insert(shapes.end(), form.sizes, form.sizes + form.dim);
        shapes.insert(shapes.end(), form.strides, form.strides + form.dim);
        members.push_back(member);
        return true;
    }

    // Points all members to the copies of their shapes, which no longer move.
    void settle() {
        const int64_t* next = shapes.data();
        for (Member& member : members) {
            member.form.sizes = next;
            member.form.strides = next + member.form.dim;
            next += 2 * member.form.dim;
        }
        held.reserve(members.size());
    }

    // Members `first` to `last`: whether nothing changed but which of them have a gradient, where, and its values.
    bool look(const Member* first, const Member* last, uint8_t* present, void**& addresses) {
        Tensor gradients[BLOCK];
        for (const Member* m = first; m < last; ++m) fetch(m->parameter), fetch_all(m->implementation);
        for (const Member* m = first; m < last; ++m) {
            if (*m->parameter != m->implementation) return false;
            fetch_owned(m->implementation, STORAGE), fetch_owned(m->implementation, AUTOGRAD);
        }
        for (const Member* m = first; m < last; ++m) {
            const Tensor gradient = gradients[m - first] = torch.gradient(m->implementation);
            present[m - first] = *gradient != torch.undefined;
            if (present[m - first] && m->gradient_dtype == NONE) return false;
            fetch_all(*gradient);
        }
        for (const Member* m = first; m < last; ++m) {
            if (!m->stays(torch)) return false;
            if (present[m - first]) fetch_owned(*gradients[m - first], STORAGE);
        }
        for (const Member* m = first; m < last; ++m) {
            if (!present[m - first]) continue;
            Form form;
            void* handle;
            const Tensor gradient = gradients[m - first];
            if (!m->accepts(torch, gradient, form) || torch.hold(gradient, &handle)) return false;
            held.push_back(handle);
            *addresses++ = form.at;
        }
        return true;
    }

    // Residents `first` to `last`: whether they are where they were.
    bool stay(const Resident* first, const Resident* last) const {
        for (const Resident* r = first; r < last; ++r) fetch(r->tensor), fetch(r->implementation);
        for (const Resident* r = first; r < last; ++r) {
            if (*r->tensor != r->implementation) return false;
            fetch_owned(r->implementation, STORAGE);
        }
        for (const Resident* r = first; r < last; ++r) {
            void* at;
            if (!torch.has_storage(r->implementation) || torch.data(r->tensor, &at) || at != r->at) return false;
        }
        return true;
    }

    void release() {
        const size_t count = held.size();
        for (size_t first = 0; first < count; first += BLOCK) {
            const size_t last = first + BLOCK < count ? first + BLOCK : count;
            for (size_t i = first; i < last; ++i) fetch(*static_cast<void**>(held[i]));
            for (size_t i = first; i < last; ++i) torch.drop(held[i]);
        }
        held.clear();
    }
};

// What CPython keeps of a list.
struct List {
    int64_t count;
    void** items;
};

}  // namespace

#define OPTC_EXPORT extern "C" __attribute__((visibility("default")))

OPTC_EXPORT const char optc_key[65];
const char optc_key[65] = OPTC_KEY;

// The parameters as they and their gradients are now; null where one is not as the kernels need it, or has an unexpected one.
OPTC_EXPORT Survey* optc_survey_new(
    const Torch* torch, const Tensor* parameters, const uint8_t* expected, int64_t count, const Tensor* residents,
    int64_t resident_count) try {
    auto* survey = new Survey{*torch, {}, {}, {}, {}};
    for (int64_t i = 0; i < resident_count; ++i) {
        void* at;
        if (torch->data(residents[i], &at)) {
            delete survey;
            return nullptr;
        }
        survey->residents.push_back({residents[i], *residents[i], at});
    }
    for (int64_t i = 0; i < count; ++i) {
        if (!survey->add(parameters[i], expected[i])) {
            delete survey;
            return nullptr;
        }
    }
    survey->settle();
    return survey;
} catch (...) {
    return nullptr;
}

// 1, and which members have a gradient, and in the same order the addresses of those, if nothing else changed since
// `optc_survey_new`; 0 otherwise. The gradients stay alive until they are released.
OPTC_EXPORT int32_t optc_survey_look(Survey* survey, uint8_t* present, void** addresses) try {
    survey->release();
    const Member *next = survey->members.data(), *end = next + survey->members.size();
    for (; next < end; next += BLOCK, present += BLOCK) {
        if (!survey->look(next, end - next > BLOCK ? next + BLOCK : end, present, addresses)) return 0;
    }
    const Resident *state = survey->residents.data(), *last = state + survey->residents.size();
    for (; state < last; state += BLOCK) {
        if (!survey->stay(state, last - state > BLOCK ? state + BLOCK : last)) return 0;
    }
    return 1;
} catch (...) {
    return 0;
}

OPTC_EXPORT void optc_survey_release(Survey* survey) { survey->release(); }

OPTC_EXPORT void optc_survey_delete(Survey* survey) {
    survey->release();
    delete survey;
}

// Tells autograd that tensors were written to. 0 if one cannot be told.
OPTC_EXPORT int32_t optc_bump_versions(const Torch* torch, const Tensor* tensors, int64_t count) try {
    for (int64_t first = 0; first < count; first += BLOCK) {
        const int64_t last = first + BLOCK < count ? first + BLOCK : count;
        for (int64_t i = first; i < last; ++i) fetch(tensors[i]);
        for (int64_t i = first; i < last; ++i) fetch(*tensors[i]);
        for (int64_t i = first; i < last; ++i) fetch_owned(*tensors[i], VERSION);
        for (int64_t i = first; i < last; ++i) torch->bump_version(tensors[i]);
    }
    return 1;
} catch (...) {
    return 0;
}

// Whether two lists hold the same objects.
OPTC_EXPORT int32_t optc_same_items(const List* one, const List* other) {
    return one->count == other->count && !memcmp(one->items, other->items, sizeof(void*) * one->count);
}
