package images

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Thresholds of the disk that holds images, in percent used: above the first, unused images go
// until the second is reached. They are the kubelet's.
const (
	highPercent = 85
	lowPercent  = 80
)

// Collector removes images that no container uses when their disk is nearly full.
type Collector struct {
	Images  cri.ImageManagerService
	Runtime cri.RuntimeService
	Pinned  []string // names that are never removed
	// Usage returns used and total bytes of the file system at a path; statfs when nil.
	Usage func(path string) (used, total uint64, err error)
}

// Collect looks at the disk once and returns the ids of what it removed, largest first.
func (c *Collector) Collect(ctx context.Context) ([]string, error) {
	usage := c.Usage
	if usage == nil {
		usage = statfs
	}
	info, err := c.Images.ImageFsInfo(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask for the disk of images: %w", err)
	}
	if len(info.GetImageFilesystems()) == 0 {
		return nil, nil
	}
	path := info.GetImageFilesystems()[0].GetFsId().GetMountpoint()
	used, total, err := usage(path)
	if err != nil {
		return nil, fmt.Errorf("look at the disk of images at %s: %w", path, err)
	}
	if used*100 < total*highPercent {
		return nil, nil
	}
	unused, err := c.unused(ctx)
	if err != nil {
		return nil, err
	}
	var removed []string
	var errs []error
	for _, image := range unused {
		if used*100 <= total*lowPercent {
			break
		}
		if err := c.Images.RemoveImage(ctx, &runtimeapi.ImageSpec{Image: image.GetId()}); err != nil {
			errs = append(errs, fmt.Errorf("remove image %s: %w", image.GetId(), err))
			continue
		}
		removed = append(removed, image.GetId())
		used -= min(used, image.GetSize())
	}
	return removed, errors.Join(errs...)
}

func (c *Collector) unused(ctx context.Context) ([]*runtimeapi.Image, error) {
	containers, err := c.Runtime.ListContainers(ctx, nil)
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	inUse := map[string]bool{}
	for _, one := range containers {
		inUse[one.GetImageRef()], inUse[one.GetImageId()], inUse[one.GetImage().GetImage()] = true, true, true
	}
	all, err := c.Images.ListImages(ctx, nil)
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	unused := slices.DeleteFunc(all, func(i *runtimeapi.Image) bool {
		if i.GetPinned() || inUse[i.GetId()] {
			return true
		}
		return slices.ContainsFunc(slices.Concat(i.GetRepoTags(), i.GetRepoDigests()), func(name string) bool {
			return inUse[name] || slices.Contains(c.Pinned, name)
		})
	})
	slices.SortFunc(unused, func(a, b *runtimeapi.Image) int {
		return cmp.Or(cmp.Compare(b.GetSize(), a.GetSize()), cmp.Compare(a.GetId(), b.GetId()))
	})
	return unused, nil
}

func statfs(path string) (used, total uint64, err error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return 0, 0, err
	}
	size := uint64(fs.Bsize)
	total = fs.Blocks * size
	return total - fs.Bavail*size, total, nil
}
