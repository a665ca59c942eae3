// One look at every parameter and gradient of a plan, through the C interface that PyTorch keeps for compiled models.
//
// A gradient that autograd made has no Python object until somebody asks for it; looked at from here it never gets one. No torch
// headers: the functions come as addresses (`survey.py` finds them, and tries them out before it trusts them), and a tensor is what
// it is in every release: a pointer to its implementation. A reference to one is the address of that pointer, here the place in
// the Python object that holds it: `torch.utils.swap_tensors` puts another implementation there, and the old one may be gone.

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

// What a kernel must know of a tensor; `at` is its memory.
struct Form {
    int32_t dtype = 0, device_type = 0, device_index = 0;
    std::vector<int64_t> sizes, strides;
    void* at = nullptr;
};

// A tensor as it is now, without a copy of its shape.
struct Sight {
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

    bool same_shape(const Form& form) const {
        return dim == int64_t(form.sizes.size()) && !memcmp(sizes, form.sizes.data(), 8 * form.sizes.size());
    }

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

    Form form() const { return {dtype, device_type, device_index, {sizes, sizes + dim}, {strides, strides + dim}, at}; }
};

struct Member {
    Tensor parameter;
    Implementation implementation;
    Form form;
    bool takes_part;
    int32_t gradient_dtype;
};

struct Survey {
    Torch torch;
    std::vector<Member> members;
    std::vector<void*> held;

    // Whether a member is as it was; `gradient` is its present one where it takes part.
    bool sees(const Member& member, Sight& sight, Tensor& gradient) const {
        if (*member.parameter != member.implementation || !sight.read_shape(torch, member.parameter) ||
            sight.at != member.form.at || sight.dtype != member.form.dtype || !sight.same_shape(member.form) ||
            memcmp(sight.strides, member.form.strides.data(), 8 * sight.dim)) {
            return false;
        }
        gradient = torch.gradient(member.implementation);
        return (*gradient != torch.undefined) == member.takes_part;
    }

    bool fits(const Member& member, Tensor gradient, Sight& sight) const {
        return sight.read(torch, gradient) && sight.dtype == member.gradient_dtype && sight.same_device(member.form) &&
               sight.same_shape(member.form) && sight.same_order(member.form) && sight.has_memory();
    }

    void release() {
        for (void* handle : held) torch.drop(handle);
        held.clear();
    }
};

}  // namespace

#define OPTC_EXPORT extern "C" __attribute__((visibility("default")))

OPTC_EXPORT const char optc_key[65];
const char optc_key[65] = OPTC_KEY;

// The parameters as they and their gradients are now; null where one is not as the kernels need it.
OPTC_EXPORT Survey* optc_survey_new(const Torch* torch, const Tensor* parameters, int64_t count) try {
    auto* survey = new Survey{*torch, {}, {}};
    for (int64_t i = 0; i < count; ++i) {
        Sight sight;
        if (!sight.read(*torch, parameters[i]) || !sight.has_memory()) {
            delete survey;
            return nullptr;
        }
        Member member{parameters[i], *parameters[i], sight.form(), false, 0};
        const Tensor gradient = torch->gradient(member.implementation);
        if (*gradient != torch->undefined) {
            member.takes_part = true;
            if (torch->dtype(gradient, &member.gradient_dtype) || !survey->fits(member, gradient, sight)) {
                delete survey;
                return nullptr;
            }
        }
        survey->members.push_back(std::move(member));
    }
    return survey;
} catch (...) {
    return nullptr;
}

// 1 and the addresses of the gradients, in order and without the members that have none, if nothing but addresses and values
// changed since `optc_survey_new`; 0 otherwise. The gradients stay alive until they are released.
OPTC_EXPORT int32_t optc_survey_look(Survey* survey, void** addresses) try {
    survey->release();
    Sight sight;
    Tensor gradient;
    for (const Member& member : survey->members) {
        void* handle;
        if (!survey->sees(member, sight, gradient)) return 0;
        if (!member.takes_part) continue;
        if (!survey->fits(member, gradient, sight) || survey->torch.hold(gradient, &handle)) return 0;
        survey->held.push_back(handle);
        *addresses++ = sight.at;
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
    for (int64_t i = 0; i < count; ++i) torch->bump_version(tensors[i]);
    return 1;
} catch (...) {
    return 0;
}
