package fakecri

import (
	"cmp"
	"context"
	"slices"

	cri "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ImageClient is the image service of a connection.
type ImageClient struct {
	cri.ImageManagerService
	c *Client
}

var _ cri.ImageManagerService = (*ImageClient)(nil)

// Images is the connection's image service.
func (c *Client) Images() *ImageClient { return &ImageClient{c: c} }

// imageLocked finds an image by id or name.
func (r *Runtime) imageLocked(ref string) *runtimeapi.Image {
	for name, i := range r.images {
		if name == ref || i.GetId() == ref {
			return i
		}
	}
	return nil
}

// ImageStatus implements cri.ImageManagerService.
func (i *ImageClient) ImageStatus(ctx context.Context, spec *runtimeapi.ImageSpec, _ bool) (answer *runtimeapi.ImageStatusResponse, err error) {
	err = i.c.call(ctx, "ImageStatus", false, func() error {
		i.c.r.mu.Lock()
		defer i.c.r.mu.Unlock()
		answer = &runtimeapi.ImageStatusResponse{Image: i.c.r.imageLocked(spec.GetImage())}
		return nil
	})
	return answer, err
}

// ListImages implements cri.ImageManagerService.
func (i *ImageClient) ListImages(ctx context.Context, _ *runtimeapi.ImageFilter) (list []*runtimeapi.Image, err error) {
	err = i.c.call(ctx, "ListImages", false, func() error {
		i.c.r.mu.Lock()
		defer i.c.r.mu.Unlock()
		for _, one := range i.c.r.images {
			list = append(list, one)
		}
		slices.SortFunc(list, func(a, b *runtimeapi.Image) int { return cmp.Compare(a.Id, b.Id) })
		return nil
	})
	return list, err
}

// PullImage implements cri.ImageManagerService.
func (i *ImageClient) PullImage(ctx context.Context, spec *runtimeapi.ImageSpec, auth *runtimeapi.AuthConfig, _ *runtimeapi.PodSandboxConfig) (ref string, err error) {
	err = i.c.call(ctx, "PullImage", true, func() error {
		i.c.r.mu.Lock()
		i.c.r.note("pull %s", spec.GetImage())
		i.c.r.mu.Unlock()
		if i.c.r.Pull != nil {
			if err := i.c.r.Pull(ctx, spec.GetImage(), auth); err != nil {
				return err
			}
		}
		i.c.r.mu.Lock()
		defer i.c.r.mu.Unlock()
		if i.c.r.images[spec.GetImage()] == nil {
			i.c.r.images[spec.GetImage()] = image(spec.GetImage())
		}
		ref = i.c.r.images[spec.GetImage()].GetId()
		return nil
	})
	return ref, err
}

// RemoveImage implements cri.ImageManagerService.
func (i *ImageClient) RemoveImage(ctx context.Context, spec *runtimeapi.ImageSpec) error {
	return i.c.call(ctx, "RemoveImage", true, func() error {
		i.c.r.mu.Lock()
		defer i.c.r.mu.Unlock()
		for name, one := range i.c.r.images {
			if name == spec.GetImage() || one.GetId() == spec.GetImage() {
				delete(i.c.r.images, name)
			}
		}
		return nil
	})
}

// ImageFsInfo implements cri.ImageManagerService.
func (i *ImageClient) ImageFsInfo(context.Context) (*runtimeapi.ImageFsInfoResponse, error) {
	return &runtimeapi.ImageFsInfoResponse{ImageFilesystems: []*runtimeapi.FilesystemUsage{
		{FsId: &runtimeapi.FilesystemIdentifier{Mountpoint: "/"}},
	}}, nil
}
